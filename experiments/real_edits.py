"""Editing as forgetting on a real model: CounterFact statements that SmolLM2-135M-Instruct knows, one edit at a time.

    OMP_NUM_THREADS=1 python experiments/real_edits.py --work FOLDER --data FOLDER [--edits 100] [--methods rome memit]
    python experiments/real_edits.py --work FOLDER --collect

Writes results/real_edits.json. A statement is known where every token of its true end is the model's first choice;
where fewer are known than asked for, statements follow whose true end the model finds likelier than the false one. Each
is edited to its false end on the original weights, which are put back before the next. What is read is what KnowEdit
(arXiv 2401.01286) reads: reliability, generalisation (the other wording), locality (another subject, beside the model
before the edit), all token by token; and efficacy, the share of edits after which the false end is likelier than the
true one. Rows lie under --work, so that an interrupted call goes on.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from common import kept_rows, log, started, store, study_parser

from expunge.benchmarks.counterfact import FILE, neighbour, statement
from expunge.data.files import read_rows
from expunge.methods._lib.fact_edit import FactEdit
from expunge.methods.recipe import parse
from expunge.models.language import CausalLM
from expunge.models.load import float32_master, load_subject
from expunge.models.real import fetch
from expunge.records.base import read_json, write_json
from expunge.records.task import Example, Task

METHODS = {
    "rome": "rome(target=wrong_answer)",
    "rome, attention held": "rome(target=wrong_answer, steps=80) + attention_drift",
    "memit": "memit(target=wrong_answer)",
    "alphaedit": "alphaedit(target=wrong_answer)",
}
READ = ("efficacy", "reliability", "generalisation", "locality")
"""What is averaged over edits: each is a share between 0 and 1."""


@dataclass(frozen=True)
class Said:
    """What a model makes of an end of a statement: its log-prob per token, and its first choice at each token."""

    logp: float
    choices: list[int]
    hits: float


def said(subject: CausalLM, row: Example, answer: str, prompt: str | None = None) -> Said:
    batch = subject.collate([subject.encoder.encode(row, answer=answer, prompt=prompt)])
    with subject.evaluating():
        answers = subject.answers(batch)
    count = batch.rows[0].answer
    choices_N, targets_N = answers.logits_NV.argmax(-1)[:count], batch.target_N[:count]
    hits = float((choices_N == targets_N).float().mean())
    return Said(float(answers.logp_N[:count].mean()), choices_N.tolist(), hits)


def known(subject: CausalLM, data: Path, work: Path, count: int) -> list[dict[str, Any]]:
    """The statements that the model knows; up to `count`, those whose true end it finds likelier than the false one."""
    path = work / f"known-{count}.json"
    if path.exists():
        return list(read_json(path)["rows"])
    known_ones: list[dict[str, Any]] = []
    likelier: list[dict[str, Any]] = []
    asked = 0
    for _, row in read_rows(data / "editing" / FILE):
        if row["subject"] not in row["prompt"]:
            continue
        asked += 1
        fact = statement(row)
        true, false = said(subject, fact, fact.answer), said(subject, fact, fact.wrong_answers[0])
        if true.hits == 1:
            known_ones.append(row | {"known": True})
        elif true.logp > false.logp:
            likelier.append(row | {"known": False})
    found = [*known_ones, *likelier][:count]
    write_json(path, {"rows": found, "asked": asked, "known": len(known_ones), "likelier": len(likelier)})
    log((len(known_ones), "known and", len(likelier), "likelier of", asked))
    return found


def one(name: str, row: dict[str, Any], subject: CausalLM, generic: tuple[Example, ...], work: Path) -> None:
    place = work / f"{name.replace(', ', '-').replace(' ', '-')}-{row['case_id']}"
    if (place / "row.json").exists():
        return
    edited, beside = statement(row), neighbour(row)
    (new,) = edited.wrong_answers
    edit = parse(METHODS[name], len(subject.blocks))[0].edit
    assert isinstance(edit, FactEdit)
    before = {n: p.detach().clone() for n, p in subject.model.named_parameters() if ".mlp." in n}
    kept, begun = said(subject, beside, beside.answer), time.process_time()
    figures = edit.apply(subject, Task(name="counterfact", forget=(edited,), retain=generic), 0)
    spent = time.process_time() - begun
    now, true = said(subject, edited, new), said(subject, edited, edited.answer)
    other, local = said(subject, edited, new, row["rephrase_prompt"]), said(subject, beside, beside.answer)
    same = [a == b for a, b in zip(kept.choices, local.choices, strict=True)]
    with torch.no_grad():
        for n, p in subject.model.named_parameters():
            if n in before:
                p.copy_(before[n])
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / "row.json", {
        "name": name, "case": row["case_id"], "known": row["known"], "recipe": METHODS[name],
        "efficacy": float(now.logp > true.logp), "reliability": now.hits, "generalisation": other.hits,
        "locality": sum(same) / len(same), "cpu_s": spent,
        "said": {"new": asdict(now), "true": asdict(true), "before": asdict(kept), "after": asdict(local)},
        "figures": figures})
    log((name, row["case_id"], f"reliability {now.hits:.2f}, generalisation {other.hits:.2f}, locality "
         f"{sum(same) / len(same):.2f}, {spent:.0f} s"))


def collect(work: Path) -> None:
    rows = kept_rows(work)
    table = []
    for name in dict.fromkeys(row["name"] for row in rows):
        for known_only in (True, False):
            mine = [row for row in rows if row["name"] == name and (row["known"] or not known_only)]
            table.append({"name": name, "recipe": mine[0]["recipe"], "known": known_only, "edits": len(mine),
                          **{of: statistics.fmean(row[of] for row in mine) for of in READ},
                          "cpu_s": statistics.median(row["cpu_s"] for row in mine)})
            log((name, known_only, len(mine), {of: round(table[-1][of], 3) for of in READ}))
    asked = [{k: v for k, v in read_json(path).items() if k != "rows"} for path in sorted(work.glob("known-*.json"))]
    kept = [{k: v for k, v in row.items() if k not in {"said", "figures"}} for row in rows]
    log((store("real_edits", {"table": table, "statements": asked, "rows": kept}), len(rows)))


if __name__ == "__main__":
    parser = study_parser(__doc__)
    parser.add_argument("--data", type=Path, help="folder with editing")
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--generic", type=int, default=400, help="statements that stand for text in general")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = started(parser)
    if given.collect:
        collect(given.work)
    else:
        if given.data is None:
            parser.error("--data says where the statements are")
        model = load_subject(fetch("smollm2-135m"))
        assert isinstance(model, CausalLM)
        float32_master(model)
        chosen = known(model, given.data, given.work, given.edits)
        taken = {row["subject"] for row in chosen}
        others = [statement(row) for _, row in reversed(read_rows(given.data / "editing" / FILE))
                  if row["subject"] not in taken]
        text = tuple({row.prompt: row for row in others[: given.generic]}.values())
        for fact in chosen:
            for called in given.methods:
                one(called, fact, model, text, given.work)
