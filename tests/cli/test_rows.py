"""Files of rows on the command line: the map that a message names, what the plan counts, rows on two sides."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from ..cases import case


@pytest.mark.parametrize("name", ["alpaca.jsonl", "knowundo_shape.json", "nested.json", "counterfact_shape.json"])
def test_the_option_of_the_message_can_be_pasted(cli: Any, model: Path, tmp_path: Path, name: str) -> None:
    words = ("forget", model, "--forget", case(name), "--method", "ga", "--steps", 1, "--dry-run", "--json", "--out",
             tmp_path / "out")
    said = cli.refused(*words, says=("add --map",))
    pasted = said.split("add ")[1].splitlines()[0]
    plan = cli(*words, *shlex.split(pasted)).json
    assert plan["rows"]["forget"] >= 1


def test_the_plan_counts_what_repeats(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    near = tmp_path / "near.jsonl"
    near.write_text(rows.retain.read_text() + rows.forget.read_text().splitlines()[0].replace('"}', '!"}') + "\n")
    out = ("--method", "ga", "--dry-run", "--json", "--out", tmp_path / "out")
    plan = cli("forget", model, "--forget", case("dup.jsonl"), *out).json
    assert plan["repeated"] == {"forget": 4, "retain": 0, "holdout": 0, "near_duplicates": 0}
    assert any(note.startswith("4 forget rows repeat") for note in plan["notes"]) and plan["empty_answers"] == 0
    plan = cli("forget", model, "--forget", rows.forget, "--retain", near, *out).json
    assert plan["repeated"]["near_duplicates"] == 1
    assert any("forget/0 and retain/6" in note for note in plan["notes"])
    audited = cli("audit", model, "--forget", case("dup.jsonl"), "--dry-run", "--json", "--out",
                  tmp_path / "out").json
    assert audited["notes"][0].startswith("4 forget rows repeat")
    trained = cli("train", "tiny", "--forget", case("dup.jsonl"), "--dry-run", "--json", "--out",
                  tmp_path / "out").json
    assert trained["repeated"]["forget"] == 4


def test_rows_on_two_sides(cli: Any, model: Path, rows: Any, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text(rows.retain.read_text() + rows.forget.read_text().splitlines()[1].replace("?", " ?") + "\n"
                    + rows.forget.read_text().splitlines()[0] + "\n")
    words = (model, "--forget", rows.forget, "--retain", both, "--on-overlap", "drop", "--dry-run", "--json", "--out",
             tmp_path / "out")
    plan = cli("forget", *words, "--method", "ga").json
    assert plan["rows"]["retain"] == 7 and plan["rows"]["forget"] == 4
    assert "1 retain rows are dropped: they also stand in forget (--on-overlap drop)." in plan["notes"]
    assert plan["repeated"]["near_duplicates"] == 1  # a space before the question mark
    assert cli("audit", *words).json["notes"]
    cli.refused("forget", *words, "--method", "ga", "--on-overlap", "ignore", says=("refuse, drop or keep",))
    words = tuple(word for word in words if word not in ("--dry-run", "--json"))
    made = cli("forget", *words, "--method", "ga", "--steps", 1)
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record["settings"]["on_overlap"] == "drop" and "1 retain rows are dropped" in made.err
