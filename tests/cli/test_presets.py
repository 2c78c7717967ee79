"""Published settings: every one can be planned, one can be run, and those that cannot be reached say why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import expunge
from expunge.benchmarks.loading import load_task
from expunge.data.encoder import Encoder
from expunge.errors import PreflightError, UsageError
from expunge.methods.plan import preflight
from expunge.methods.recipe import parse
from expunge.models.tiny import build_subject
from expunge.presets import PRESETS, PublishedSetting, published
from expunge.records.settings import RunSettings
from tests.conftest import TASK, TINY

DEPTH = 32
RUNNABLE = [p for p in PRESETS if p.recipe]
NAMES = [p.name for p in PRESETS]


@pytest.fixture(scope="module")
def large() -> tuple[Encoder, Any]:
    """A tokenizer, and the config of a model as deep as those that settings are published for."""
    subject = build_subject(dict(TINY), load_task(TASK).texts())
    return subject.encoder, AutoConfig.for_model(**(dict(TINY) | {"num_hidden_layers": DEPTH}))


@pytest.mark.parametrize("preset", RUNNABLE, ids=lambda p: p.name)
def test_every_preset_passes_preflight(preset: PublishedSetting, large: tuple[Encoder, Any]) -> None:
    encoder, config = large
    settings = preset.settings({})
    plan = preflight(preset.recipe, parse(preset.recipe, DEPTH), load_task(TASK), encoder, config, settings)
    assert settings.keep == "last"
    assert plan.steps[0] > 0 or preset.name == "rocr/rwku"
    assert settings.steps in (None, plan.steps[0])


def test_every_preset_is_named_once_and_says_where_it_is_printed() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(p.source and p.model and p.benchmark for p in PRESETS)
    assert all(bool(p.recipe) != bool(p.defect) for p in PRESETS)


def test_sgd_arithmetic_of_tofu() -> None:
    """forget10 at 32 rows: 400 // 32 = 12 steps of warm-up; at 16 rows 25."""
    assert "warmup_steps=12" in published("npo/tofu-forget10").recipe
    assert "warmup_steps=25" in published("satimp/tofu-forget10").recipe
    assert "warmup_steps=2," in published("tnpo/tofu-forget01").recipe
    for preset in PRESETS:
        if preset.benchmark == "TOFU":
            rows = preset.settings({}).batch_size * preset.settings({}).accumulate
            assert rows in (16, 32, 35), preset.name


def test_satimp_is_named_in_both_forms() -> None:
    assert "beta2=0.1" in published("satimp/tofu-forget10").recipe
    assert "beta2=1.0" in published("satimp-port/tofu-forget10").recipe


@pytest.mark.parametrize("name", [p.name for p in PRESETS if p.defect])
def test_what_cannot_be_reached_says_so(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        published(name)
    assert "cannot be reached" in caught.value.what and published.__doc__ and caught.value.fix
    assert any(word in caught.value.why for word in ("raw logits", "no gradient"))


def test_the_muse_settings_of_npo_point_to_the_form_that_works(cli: Any) -> None:
    said = cli.refused("forget", "nowhere", "--preset", "npo/muse-bench", "--out", "run", says=["raw logits"])
    assert "npo/muse" in said.replace("npo/muse-bench", "")


def test_the_list_fits_one_screen_and_names_its_models(cli: Any) -> None:
    lines = cli("presets").out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 120
    assert any("models of 1B to 13B" in line for line in lines)
    assert all(any(line.strip().startswith(p.name.rstrip("0123456789")) for line in lines) for p in PRESETS)
    assert {p["name"] for p in cli("presets", "--json").json} == set(NAMES)
    assert all("TOFU" in p["benchmark"] for p in cli("presets", "tofu", "--json").json)


def test_a_method_is_not_a_published_setting(cli: Any) -> None:
    for name in ("grad_diff", "npo + retain_kl", "ga(weight=2)"):
        cli.refused("forget", "nowhere", "--preset", name, "--out", "run",
                    says=[f'Use --method "{name}"', "not a published setting"])
    cli.refused("forget", "nowhere", "--preset", "npo/tofi", "--out", "run", says=["no published setting called"])


def test_one_preset_shows_recipe_and_source(cli: Any) -> None:
    said = cli("presets", "sam/wmdp-bio").out
    assert "ratio=batch" in said and "Unlearn-Smooth" in said and "Zephyr-7B" in said
    cli.refused("presets", "npo/tofu", says=["npo/tofu-forget"])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build_subject(dict(TINY), load_task(TASK).texts()).save(folder)
    return folder


def test_a_preset_runs_and_options_given_come_first(cli: Any, model: Path, tmp_path: Path) -> None:
    cli("forget", model, "--preset", "npo/tofu-forget10", "--task", TASK, "--steps", 2, "--batch-size", 4,
        "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["recipe"] == published("npo/tofu-forget10").recipe
    assert record["settings"]["batch_size"] == 4 and record["settings"]["accumulate"] == 4
    assert record["settings"]["keep"] == "last" and record["timing"]["steps"] == 2


def test_a_default_that_is_typed_counts_as_given(cli: Any, model: Path) -> None:
    """--epochs 10 and --batch-size 8 are defaults of expunge, and not those of this preset."""
    words = ("forget", model, "--preset", "npo/rwku", "--task", TASK, "--out", "run", "--dry-run", "--json")
    rows, own = len(load_task(TASK).forget), cli(*words).json
    typed = cli(*words, "--epochs", 10, "--batch-size", 8).json
    assert own["steps"] == [3 * -(-rows // 16)] and typed["steps"] == [10 * -(-rows // 32)]
    assert any("npo/rwku" in note and "RWKU" in note for note in own["notes"])


def test_epochs_stand_in_for_the_steps_of_a_preset() -> None:
    settings = published("sam/wmdp-bio").settings({"epochs": 2.0})
    assert settings.steps is None and settings.epochs == 2.0
    assert published("sam/wmdp-bio").settings({}).steps == 125


def test_python_has_the_same(model: Path, tmp_path: Path) -> None:
    plan: Any = expunge.forget(model, preset="undial/tofu-forget01", task=TASK, out=tmp_path / "a", dry_run=True,
                               steps=3)
    assert plan.steps == (3,) and plan.recipe == published("undial/tofu-forget01").recipe
    held: Any = expunge.forget(model, preset="undial/tofu-forget01", task=TASK, out=tmp_path / "b", dry_run=True,
                               settings=RunSettings(batch_size=2, accumulate=1))
    assert held.steps == (10 * len(load_task(TASK).forget) // 2,)
    with pytest.raises(UsageError, match="both given"):
        expunge.forget(model, preset="npo/rwku", method="npo", task=TASK, out=tmp_path / "c")
    with pytest.raises(UsageError, match="a recipe or a published setting"):
        expunge.forget(model, task=TASK, out=tmp_path / "c")
    with pytest.raises(PreflightError, match="no such block"):  # layer 7 of a model with two
        expunge.forget(model, preset="rmu/tofu-forget10", task=TASK, out=tmp_path / "c")
