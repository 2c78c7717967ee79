"""Every plug-in on an image classifier: it works without a line of its own, or is refused with the reason."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import api, registry
from expunge.attacks.base import AttackContext, View, parse_attack
from expunge.audit.attacks import cannot_run, probe_for
from expunge.benchmarks.digits import digits_task
from expunge.errors import PreflightError
from expunge.metrics.base import Evidence
from expunge.metrics.evaluate import parse_metric, required
from expunge.models.classifier import ImageClassifier
from expunge.models.load import load_subject
from expunge.models.subject import AnySubject
from expunge.needs import OFFERS
from expunge.records.base import read_jsonl
from expunge.records.observation import Observations, Row
from expunge.records.run import RunRecord
from expunge.records.task import Split, Task
from expunge.registry import Entry
from expunge.shadows import make_shadows

OFFERED = OFFERS["image"]
OPTIONS: dict[str, str] = {"layers": "index=0", "ce_u": "skip=0", "lora": "rank=4",
                           "dmm": "models=2, epochs=1",
                           **{e.name: "clients=2, rounds=1, epochs=0.1" for e in registry.of_kind("federated")}}
"""What a plug-in is typed with here where its defaults do not stand alone, or need tokens."""
BEHIND = {"distil": "shrink_perturb >> distil"}
"""What is typed behind a stage without which it would do nothing."""
ALONE = {"exact", "edit", "sequential", "guard", "preset", "objective"}
LR = 1e-3


@cache
def task() -> Task:
    """Ten rows of every class, and the 3 is to be forgotten."""
    return digits_task(per_class=24)


@cache
def tiny(split: str = "full") -> Path:
    """A small model of those rows, made once for a session."""
    import tempfile

    out = Path(tempfile.mkdtemp()) / split
    api.train("cnn", task=task(), split=split, out=out, epochs=20)  # type: ignore[arg-type]
    return out


def typed(entry: Entry) -> str:
    """A recipe with this plug-in in it."""
    term = f"{entry.name}({OPTIONS[entry.name]})" if entry.name in OPTIONS else entry.name
    if entry.kind in ALONE:
        return BEHIND.get(entry.name, term)
    return f"npo + {term}" if entry.kind == "retain" else f"ga + retain_nll + {term}"


def recipe_entries() -> list[Entry]:
    from expunge.plugin import METHODS

    return registry.of_kind(*METHODS)


def weights(subject: AnySubject) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in subject.model.state_dict().items()}


@pytest.mark.parametrize("entry", recipe_entries(), ids=lambda e: e.name)
def test_a_recipe_plugin_works_or_is_refused(entry: Entry, tmp_path: Path) -> None:
    own = entry.kind in ("edit", "sequential", "guard", "exact")  # they take no steps of the run
    apart = entry.kind == "federated"  # its clients take them
    steps: dict[str, Any] = {} if own else {"steps": 2, "lr": LR, "batch_size": 4}
    out = tmp_path / "run"
    if "image" not in registry.serves_of(entry.name):
        with pytest.raises(PreflightError) as refused:
            api.forget(tiny(), method=typed(entry), task=task(), out=out, keep="last", **steps)
        reason = str(refused.value)
        named = entry.parts or (entry.name,)  # a preset is refused by the parts that cannot run
        assert any(part in reason for part in named) and "this kind of model" in reason
        assert not out.exists(), "something was written before the refusal"
        return
    record = api.forget(tiny(), method=typed(entry), task=task(), out=out, keep="last", **steps)
    assert isinstance(record, RunRecord)
    before, after = weights(load_subject(tiny())), load_subject(out)
    assert all(bool(v.isfinite().all()) for v in weights(after).values())
    if steps and not apart:
        lines = list(read_jsonl(out / "steps.jsonl"))
        assert len(lines) == record.timing["steps"] and all(math.isfinite(line["loss"]) for line in lines)
    if "lora" in typed(entry) or entry.name == "ga_lora":
        moved = {n: v for n, v in weights(after).items() if "lora_B" in n}
        assert moved and any(float(v.abs().max()) for v in moved.values())
        return
    changed = {name for name, value in weights(after).items() if not torch.equal(value, before[name])}
    assert changed, "no weight moved"
    if entry.name == "layers":
        assert all(name.startswith("stages.0.") for name in changed)


def test_a_refusal_names_the_option_that_would_work(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"Write ce_u\(skip=0\)"):
        api.forget(tiny(), method="ce_u", task=task(), out=tmp_path / "run", steps=2)


def observed(subject: AnySubject, probe: str, split: Split) -> tuple[Row, ...]:
    return tuple(probe_for(probe, True).observe(subject, task().probe_rows(split), task()))


@pytest.mark.parametrize("entry", registry.of_kind("attack"), ids=lambda e: e.name)
def test_an_attack_works_or_is_refused(entry: Entry) -> None:
    cheap = {"relearn": "(steps=2)", "refit_head": "(steps=2)", "noise": "(draws=2)"}
    attack = parse_attack(entry.name + cheap.get(entry.name, ""))
    original = load_subject(tiny())
    context = AttackContext.of(task(), original=lambda: original)
    why = cannot_run(attack, context, True, OFFERED)
    if "image" not in registry.serves_of(entry.name):
        assert why is not None and "this kind of model" in why
        return
    assert why is None, why
    subject = load_subject(tiny("retain"))
    before, seen = weights(subject), dict[str, list[float]]()

    def ask(view: View) -> None:
        rows = probe_for("likelihood", False).observe(view.subject, list(view.rows("forget")), task())
        seen.setdefault(view.label, []).extend(row["logp"][0] for row in rows)

    attack.run(subject, context, ask)
    assert set(seen) == set(attack.labels) and all(map(math.isfinite, chain.from_iterable(seen.values())))
    plain = [row["logp"][0] for row in observed(subject, "likelihood", "forget")]
    assert any(values != plain for values in seen.values()), "it changed no answer"
    assert all(torch.equal(value, before[name]) for name, value in weights(subject).items())


@cache
def evidence() -> Evidence:
    """All that a classifier can be asked, of the original and of both twins."""
    def of(folder: Path) -> Observations:
        subject = load_subject(folder)
        return Observations({(probe, split): observed(subject, probe, split)  # type: ignore[misc]
                             for probe in ("likelihood", "gradient")
                             for split in ("forget", "retain", "holdout", "utility")})

    return Evidence(of(tiny()), of(tiny()), (of(tiny("retain")), of(tiny("retain"))), OFFERED)


@pytest.mark.parametrize("entry", registry.of_kind("metric"), ids=lambda e: e.name)
def test_a_metric_works_or_says_why_not(entry: Entry) -> None:
    card: Any = entry.load().card
    metric, split = parse_metric(f"forget.{entry.name}" if card.per_split else entry.name)
    score = metric.score(evidence(), split, resamples=20)
    if "image" not in registry.serves_of(entry.name):
        assert score.value is None and "this kind of model" in str(score.unavailable)
        return
    assert {probe for probe, _ in required([(metric, split)])} <= {"likelihood", "gradient"}
    assert score.value is not None, score.unavailable
    assert card.range is None or card.range[0] <= score.value <= card.range[1]


HIGHER_OF_THE_ORIGINAL = ("accuracy", "probability", "mia.loss", "mia.entropy", "mia.min_k", "mia.reference",
                         "mia.grad_norm")
"""Not mia.min_k_pp: of a single choice it measures how far the label stands out, which training leaves near 0.5."""


def test_metrics_tell_the_original_from_the_retrained_model() -> None:
    def both(name: str) -> tuple[float, float]:
        term = f"forget.{name}" if registry.load(name).card.per_split else name  # type: ignore[attr-defined]
        metric, split = parse_metric(term)
        values = [metric.score(replace(evidence(), subject=observations), split, resamples=20).value
                  for observations in (evidence().subject, evidence().retrained[0])]
        assert None not in values
        return values[0], values[1]  # type: ignore[return-value]

    found = {name: both(name) for name in HIGHER_OF_THE_ORIGINAL}
    assert not {name: values for name, values in found.items() if values[0] <= values[1]}
    (original, retrained), (likely, unlikely) = found["accuracy"], found["probability"]
    assert original > 0.9 and retrained < 0.2 and likely > 0.9 and unlikely < 0.2
    original, retrained = both("mia.confidence")  # the share that its classifier takes for rows never trained on
    assert original < 0.2 and retrained > 0.8


def test_enough_of_each_kind_serve_images() -> None:
    served = [entry for entry in registry.entries().values() if "image" in registry.serves_of(entry.name)]
    count = {kind: sum(e.kind == kind for e in served) for kind in ("attack", "metric")}
    methods = [e for e in served if e in recipe_entries() and e.kind != "preset"]
    assert len(methods) >= 25 and count["attack"] >= 6 and count["metric"] >= 8, (len(methods), count)


def test_what_the_source_says_of_needs_is_what_the_card_says() -> None:
    """The listing reads needs without importing a plug-in."""
    for entry in registry.entries().values():
        assert entry.own_needs == entry.load().card.model_needs, entry.name


def accuracy(subject: AnySubject, split: Split) -> float:
    batch = subject.collate([subject.encoder.encode(row) for row in task().split(split)])
    with subject.evaluating():
        return float((subject.answers(batch).logits_NV.argmax(-1) == batch.target_N).float().mean())


@pytest.mark.parametrize("recipe", ["ga + retain_nll", "idk + retain_nll(weight=4)", "ssd"])
def test_a_class_is_forgotten_and_the_others_stay(recipe: str, tmp_path: Path) -> None:
    """Unlearned by ascent, by random labels and by dampening; the retrained model is the control."""
    original, retrained = load_subject(tiny()), load_subject(tiny("retain"))
    assert accuracy(original, "forget") > 0.95 and accuracy(original, "utility") > 0.85
    assert accuracy(retrained, "forget") == 0 and accuracy(retrained, "utility") > 0.85
    looped: dict[str, Any] = {} if recipe == "ssd" else {"epochs": 6, "lr": LR}
    api.forget(tiny(), method=recipe, task=task(), out=tmp_path / "run", keep="last", **looped)
    unlearned = load_subject(tmp_path / "run")
    assert accuracy(unlearned, "forget") < 0.2 and accuracy(unlearned, "utility") > 0.85


@pytest.mark.trains
def test_shadow_models_of_a_classifier(tmp_path: Path) -> None:
    """U-LiRA tells what the originals saw, and is near chance on models that never saw it. Some 12 CPU seconds."""
    method = "ga + retain_nll"
    made = make_shadows(method, out=tmp_path / "shadows", model="cnn", count=8, train_epochs=15, epochs=2, lr=LR,
                        task=digits_task(per_class=6, forget="random:0.3"))
    assert made.finished == made.trainings == 24 and made.points == 22
    seen, never, unlearned = (made.results[name]["ulira"] for name in ("original", "retrained", method))
    assert {m["points"] for m in (seen, never, unlearned)} == {22} and {m["pairs"] for m in (seen, never)} == {2}
    assert seen["auc"] > never["auc"] + 0.1 and seen["auc"] > 0.7 and abs(never["auc"] - 0.5) < 0.2


def test_text_and_images_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="holds no image"):
        api.forget(tiny(), method="ga", task="authors", out=tmp_path / "run")


def test_saved_and_loaded_it_answers_the_same() -> None:
    subject = load_subject(tiny())
    assert isinstance(subject, ImageClassifier) and subject.encoder.classes == tuple("0123456789")
    again = subject.clone()
    batch = subject.collate([subject.encoder.encode(row) for row in task().forget])
    with subject.evaluating(), again.evaluating():
        assert torch.equal(subject.answers(batch).logp_N, again.answers(batch).logp_N)
    alone = [subject.answers(subject.collate([row])).logp_N for row in batch.rows]
    torch.testing.assert_close(torch.cat(alone), subject.answers(batch).logp_N)
