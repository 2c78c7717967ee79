"""The settings records check themselves, and one of them goes from the command line to the record and back."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import expunge
from expunge.cli.options import options_of
from expunge.errors import UsageError
from expunge.records.run import RunRecord
from expunge.records.settings import AuditSettings, LoopSettings, RunSettings, Settings, TaskOptions, TrainSettings

ALL: tuple[type[Settings], ...] = (TrainSettings, RunSettings, AuditSettings, TaskOptions)


@pytest.mark.parametrize("record", ALL)
def test_every_option_is_described(record: type[Settings]) -> None:
    for name, field in record.model_fields.items():
        assert field.description and field.description.endswith("."), f"{record.__name__}.{name}"


@pytest.mark.parametrize(("record", "options", "says"), [
    (RunSettings, {"epochs": 0}, ("--epochs must be above 0.", "Passes over the forget rows.", "Give a number above")),
    (RunSettings, {"epochs": float("nan")}, ("--epochs nan is not possible",)),
    (TrainSettings, {"epochs": -1}, ("--epochs must be above 0.",)),
    (RunSettings, {"batch_size": 0}, ("--batch-size must be at least 1.", "Rows of each side")),
    (RunSettings, {"utility_floor": 1.5}, ("--utility-floor must be at most 1.",)),
    (RunSettings, {"keep": "worst"}, ("--keep 'worst' is not possible.", "Choose best or last.")),
    (TrainSettings, {"split": "half"}, ("--split 'half' is not possible.", "Choose full or retain.")),
    (RunSettings, {"steps": "many"}, ("--steps 'many' is not possible.",)),
    (RunSettings, {"epoch": 3}, ("There is no option 'epoch'.", "Did you mean epochs")),
    (RunSettings, {"lr": -1}, ("--lr must be at least 0.", "Peak learning rate.")),
    (TrainSettings, {"lr": -1e-3}, ("--lr must be at least 0.",)),
    (AuditSettings, {"limit": 0}, ("A limit of 0 rows leaves nothing.", "1 or more")),
    (RunSettings, {"limit": -2}, ("A limit of -2 rows leaves nothing.",)),
    (RunSettings, {"template": "Q:"}, ("--template 'Q:' has no place for the prompt.", "Write {prompt}")),
    (AuditSettings, {"resamples": -1}, ("--resamples must be at least 0.",)),
])
def test_a_wrong_option_is_one_clear_message(record: type[Settings], options: dict[str, Any],
                                             says: tuple[str, ...]) -> None:
    """However the record is made: directly, over another one, or through a verb."""
    for make in (lambda: record(**options), lambda: record.build(record(), **options)):
        with pytest.raises(UsageError) as raised:
            make()
        assert all(words in str(raised.value) for words in says), str(raised.value)
        assert raised.value.exit_code == 2


def test_settings_do_not_change() -> None:
    settings = RunSettings(epochs=3)
    with pytest.raises(ValidationError, match="frozen"):
        settings.epochs = 4


def test_options_go_over_settings() -> None:
    settings = RunSettings(epochs=3, lr=1e-4)
    both = RunSettings.build(settings, steps=7)
    assert (both.epochs, both.lr, both.steps, both.batch_size) == (3, 1e-4, 7, 8)
    assert RunSettings.build(settings) == settings
    with pytest.raises(UsageError, match="takes a RunSettings, not a TrainSettings"):
        RunSettings.build(TrainSettings())  # type: ignore[arg-type]
    assert AuditSettings(suite=["quick", "mia.loss"]).suite == "quick,mia.loss"


def test_steps_are_counted_in_one_place() -> None:
    assert RunSettings(epochs=2.5).total_steps(3) == 8
    assert RunSettings(epochs=0.01).total_steps(3) == 1
    assert TrainSettings(epochs=9, steps=4).total_steps(3) == 4


def test_what_the_record_holds_is_unchanged() -> None:
    """Others read record.json: these are its keys under `settings`."""
    both = {"epochs", "steps", "batch_size", "accumulate", "max_length", "limit", "template", "gradient_checkpointing",
            "mixed_precision", "on_overlap"}
    assert set(TrainSettings().to_json()) == both | {"split"}
    assert set(RunSettings().to_json()) == both | {"eval_every", "keep", "utility_floor", "forget_target",
                                                   "stop_at_target", "stop_at_floor"}


@pytest.mark.parametrize("record", ALL)
def test_the_command_line_offers_what_the_record_has(record: type[Settings]) -> None:
    for option in options_of(record):
        kind, about = typing.get_args(option.annotation)
        assert option.default == record.model_fields[option.name].default
        assert about.default == "--" + option.name.replace("_", "-") and about.help
        assert not isinstance(kind, str)


WORDS = ("--steps", 2, "--lr", "1e-3", "--batch-size", 2, "--seed", 5, "--keep", "last", "--checkpoint-every", 1)
SAME: dict[str, Any] = {"steps": 2, "lr": 1e-3, "batch_size": 2, "seed": 5, "keep": "last", "checkpoint_every": 1}


def test_from_the_command_line_to_the_record_and_back(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    """Typed options, named options and a settings record make the same run, which each of them resumes."""
    command = ("forget", model, *rows.words, "--method", "npo", "--out", tmp_path / "run", *WORDS)
    cli(*command)
    record = RunRecord.read(tmp_path / "run" / "record.json")
    stored = json.loads((tmp_path / "run" / "record.json").read_text())
    assert isinstance(record.settings, RunSettings)
    assert record.settings.to_json() == stored["settings"] == RunSettings(**SAME).to_json()
    assert record.seed == record.settings.seed == 5 and "seed" not in stored["settings"]
    assert record.to_json() == stored

    task = {name: getattr(rows, name) for name in ("forget", "retain", "holdout")}
    longer = RunSettings(**SAME | {"steps": 9})
    for given in (SAME, {"settings": RunSettings(**SAME)}, {"settings": longer, "steps": 2}):
        again = expunge.forget(model, method="npo", out=tmp_path / "run", resume=True, **task, **given)
        assert isinstance(again, RunRecord) and again.settings == record.settings
        assert again.created == record.created
    with pytest.raises(UsageError, match=r"settings\.steps was 2 and is now 3\."):
        expunge.forget(model, method="npo", out=tmp_path / "run", resume=True, **task, **SAME | {"steps": 3})
    # How often checkpoints are written changes nothing that is recorded.
    expunge.forget(model, method="npo", out=tmp_path / "run", resume=True, **task, **SAME | {"checkpoint_every": 7})


def test_settings_of_a_training(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    cli("train", model, *rows.words[:4], "--split", "retain", "--steps", 1, "--out", tmp_path / "run")
    record = RunRecord.read(tmp_path / "run" / "record.json")
    assert isinstance(record.settings, TrainSettings) and isinstance(record.settings, LoopSettings)
    assert (record.settings.split, record.settings.epochs, record.settings.batch_size) == ("retain", 5, 16)


def test_epochs_must_be_above_0(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    for command in (("forget", model, *rows.words, "--method", "ga"), ("train", model, *rows.words[:4]),
                    ("shadows",), ("sweep", model, *rows.words)):
        cli.refused(*command, "--epochs", 0, "--out", tmp_path / "out", says=("--epochs must be above 0.",))
    assert not (tmp_path / "out").exists()
