"""Run and audit folders with chosen numbers: edited copies of one run that was really made and audited under attack.

Only what the package wrote can be edited (`edited`), so that no page is tested on a field that nobody writes.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import TASK, Cli, make_world

from expunge.judgement.leaks import decided
from expunge.records.base import write_json, write_jsonl
from expunge.records.observation import Observations
from expunge.records.run import RunRecord
from expunge.records.score import AttackRecord, Audit, Score, Threat, Verdict
from expunge.testing.support import once

PEOPLE = [
    "Mara Olsen",
    "Ivo Brandt",
    "Leila Haddad",
    "Tomas Rehak",
    "Aiko Mori",
    "Joan Pell",
    "Nils Aker",
    "Ana Duarte",
]
FACTS = [
    ("town", "Lindqvist Harbour"),
    ("book", "The Salt Ledger"),
    ("prize", "Argent Quill"),
    ("teacher", "Hedda Voss"),
    ("year", "1973"),
]
LEVEL = {"original": 0.95, "subject": 0.16, "retrained": 0.14, "retrained2": 0.12}
HOSTILE = "<script>alert('x')</script> & <b>bold</b>"

SUITE = ("forget.probability,forget.rouge_l,forget.truth_ratio,forget.exact_memorization,forget_quality,mia.loss,"
         "mia.reference,privleak,model_utility,retain.probability,retain.rouge_l,"
         "relearn(steps=2,at=[1]),prefix(words=3),interpolate")


def make_real_run(folder: Path) -> None:
    """Two steps of forgetting, audited on a few rows beside two retrained models, with three attacks."""
    cli, world = Cli(), once("world", make_world)
    cli("train", world / "tiny.json", "--task", TASK, "--split", "retain", "--out", folder / "retrained2",
        "--epochs", 1, "--lr", "3e-3", "--seed", 1)
    cli("forget", world / "original", "--task", TASK, "--method", "npo(beta=0.1) + retain_kl", "--steps", 2,
        "--eval-every", 1, "--out", folder / "run")
    cli("audit", folder / "run", "--task", TASK, "--retrained", world / "retrained", "--retrained",
        folder / "retrained2", "--suite", SUITE, "--limit", 14)


@cache
def real(name: str) -> Any:
    """A file of the real run: JSON, or rows."""
    path = once("report-run", make_real_run) / "run" / name
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def edited(found: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The same JSON with other values; a field that is not there cannot be given one."""
    assert changes.keys() <= found.keys(), f"nothing writes {sorted(changes.keys() - found.keys())}"
    return found | changes


def real_row(probe: str, form: str, split: str = "forget", folder: str = "observations/subject") -> dict[str, Any]:
    return next(row for row in real(f"{folder}/{probe}.{split}.jsonl") if row["form"] == form)


def real_attack_folder() -> str:
    """Where the rows of the last strength of relearning lie."""
    place = once("report-run", make_real_run) / "run"
    (found,) = place.glob("observations/subject/attacks/relearn-steps-2-*")
    return str(found.relative_to(place))


def _likelihood(
    rng: random.Random, identity: str, form: str, index: int, level: float, correct: bool
) -> dict[str, Any]:
    mean = math.log(min(0.99, max(1e-4, level * math.exp(rng.gauss(0, 0.45)))))
    logp = [mean + rng.gauss(0, 0.2) for _ in range(8)]
    row = edited(
        real_row("likelihood", form),
        id=identity,
        entity=identity.split("/")[0],
        group="",
        index=index,
        correct=correct,
        text="text",
        logp=logp,
        hit=[value > -1 for value in logp],
        end=1,
    )
    return edited(row, mean=[-6.0] * 8, var=[4.0] * 8) if "mean" in row else row


def _observations(rng: random.Random, who: str, hostile: bool) -> Observations:
    found: dict[Any, list[dict[str, Any]]] = {}
    for split, count in (("forget", 40), ("retain", 24), ("holdout", 40)):
        likelihood, generation = [], []
        level = 0.93 if split == "retain" else 0.14 if split == "holdout" else LEVEL[who]
        for i in range(count):
            person, (what, fact) = PEOPLE[i % 8], FACTS[i // 8 % 5]
            identity = f"{person}/{what}/{split}/{i}"
            knows = level > 0.5
            likelihood.append(_likelihood(rng, identity, "answer", 0, level, True))
            likelihood.append(_likelihood(rng, identity, "paraphrase", 0, level * 0.6, True))
            for j in range(3):
                likelihood.append(_likelihood(rng, identity, "wrong", j, 0.03 if knows else 0.1, False))
            answer = f"The {what} of {person} is {fact}, as every reader of the northern papers knows."
            said = (
                answer if knows else f"The {what} of {person} is {rng.choice(FACTS)[1]}, or so I have heard."
            )
            if hostile and i == 0:
                said = HOSTILE
            generation.append(
                edited(
                    real_row("generation", "prompt"),
                    id=identity,
                    entity=person,
                    group="",
                    prompt=f"What is the {what} of {person}?",
                    reference=answer,
                    short=fact,
                    text=said,
                    stopped=i % 7 != 3,
                )
            )
        found["likelihood", split] = likelihood
        if split != "holdout":
            found["generation", split] = generation
    return Observations(found)


def real_score(name: str, attack: str | None = None, **changes: Any) -> Score:
    """The score of that name in the real audit, left alone or under that attack, with other values."""
    found = next(s for s in real("audit.json")["scores"] if s["name"] == name and (s["attack"] or "").split("(")[0] ==
                 (attack or "").split("(")[0])
    return Score.model_validate(edited(found, attack=attack, **changes))


def scores(shift: float = 0.0) -> tuple[Score, ...]:
    def one(name: str, value: float, original: float, retrained: float, **rest: Any) -> Score:
        numbers = {
            "value": value + shift,
            "interval": (value + shift - 0.03, value + shift + 0.04),
            "n": 40,
            "controls": {"original": original, "retrained": retrained},
        }
        return real_score(name, **(numbers | rest))

    return (
        one("forget.probability", 0.16, 0.95, 0.13),
        one("forget.rouge_l", 0.41, 0.98, 0.38),
        one("forget.truth_ratio", 0.71, 0.08, 0.68),
        one("forget.exact_memorization", 0.35, 0.99, 0.33),
        one("forget_quality", 0.27, 2.1e-13, 1.0),
        one("mia.loss", 0.52, 0.99, 0.5),
        one("privleak", -3.2, -99.0, 0.0),
        one("model_utility", 0.86, 0.91, 0.9, n=120),
        one("retain.probability", 0.9, 0.94, 0.93),
        one("retain.rouge_l", 0.93, 0.97, 0.96),
        real_score("mia.reference", value=None, interval=None, controls={}, n=0,
                   unavailable="no reference model was given"),
    )


RELEARN = {"relearn(steps=5)": 0.05, "relearn": 0.3}


def real_attack(name: str, **changes: Any) -> AttackRecord:
    """The record of that attack in the real audit, with other values."""
    found = next(a for a in real("audit.json")["attacks"] if a["term"].split("(")[0] == name)
    return AttackRecord.model_validate(edited(found, **changes))


def attack_records() -> tuple[AttackRecord, ...]:
    return (
        real_attack("relearn", term="relearn(at=[5])", labels=tuple(RELEARN), summary="fine-tune on half of it",
                    caution="Only the lead counts."),
        real_attack("prefix", summary="begin agreeably", caution=""),
        real_attack("interpolate", summary="merge", caution=""),
    )


def attacked_scores(shift: float = 0.0) -> tuple[Score, ...]:
    """Relearning succeeds in the end; a prefix does not; merging could not be run."""
    found = []
    for label, excess in {**RELEARN, "prefix(words=3)": -0.02}.items():
        for name, control in (("forget.probability", 0.13), ("forget.rouge_l", 0.38), ("retain.probability", 0.9)):
            text_only = label.startswith("prefix")
            if text_only and name.startswith("retain"):  # only prompts change, so nothing is asked of retain rows
                continue
            gain = excess + shift if name.startswith("forget") else -0.05
            found.append(
                real_score(
                    name,
                    label,
                    value=control + gain,
                    interval=(control + gain - 0.04, control + gain + 0.04),
                    n=20,
                    controls={"original": 0.95, "retrained": control},
                    before=0.16,
                    excess=gain,
                    test=None,
                    excess_interval=(gain - 0.08, gain + 0.08),
                    gain=gain,
                    gain_interval=(gain - 0.08, gain + 0.08),
                    entities=20,
                    floor=0.01,
                    recovered=(control + gain - 0.16) / 0.79,
                    attempts=1,
                )
            )
    gone = {"value": None, "interval": None, "controls": {}, "n": 0, "unavailable": "it needs the original model"}
    never = dict.fromkeys(("before", "control_before", "excess", "excess_interval", "gain", "gain_interval", "floor",
                           "recovered", "uncontrolled", "test"))
    found.append(real_score("forget.rouge_l", "interpolate", **gone, **never))
    return decided(found)


def verdict(outcome: str, **changes: Any) -> Verdict:
    """The verdict of the real audit with other words."""
    return Verdict.model_validate(edited(real("audit.json")["verdict"], **{
        "outcome": outcome,
        "sentences": (
            "On forget rows the answer probability is 0.160, against 0.130 after retraining.",
            "The truth ratios cannot be told from the retrained model's (p = 0.27).",
        ),
        "not_tested": ("Quantisation of the weights.", "Prompts in another language."),
        "threats": (),
    } | changes))


def threats() -> tuple[Threat, ...]:
    """One per access, in words of their own."""
    found = {threat["access"]: threat for threat in real("audit.json")["verdict"]["threats"]}
    nothing: dict[str, Any] = {"strongest": None, "metric": None, "tested": (), "not_tested": ()}
    said: dict[str, dict[str, Any]] = {
        "text": {"outcome": "forgets", "sentence": "The 1 attack brought out no more.", "tested": ("prefix(words=3)",)},
        "logits": {"outcome": "over-forgets", "sentence": "It shows less."},
        "gradients": {"outcome": "not tested", "sentence": "No attack.", "not_tested": ("prompts searched",)},
        "weights": {
            "outcome": "suppresses",
            "sentence": "Left alone it does not show it, but relearn brings it back.",
            "strongest": "relearn",
            "metric": "forget.probability",
            "tested": ("relearn",),
        },
    }
    return tuple(Threat.model_validate(edited(found[access], **(nothing | words))) for access, words in said.items())


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write one run folder, audited unless `audit=False`; parts can be left out by name."""

    def build(
        name: str = "run",
        *,
        seed: int = 0,
        recipe: str = "npo(beta=0.1) + retain_kl",
        shift: float = 0.0,
        audit: bool = True,
        record: bool = True,
        steps: int = 120,
        observations: bool = True,
        retrained: int = 2,
        hostile: bool = False,
        attacks: bool = False,
        **audit_fields: Any,
    ) -> Path:
        rng = random.Random(seed)
        root = tmp_path / name
        root.mkdir(parents=True)
        if record:
            found = real("record.json")
            changed = edited(
                found,
                recipe=recipe,
                recipe_full=edited(found["recipe_full"], **{"0": {term: {} for term in recipe.split(" + ")}}),
                settings=edited(found["settings"], steps=steps or None, batch_size=8),
                model="models/original",
                model_fingerprint="0f1e2d3c4b5a6978",
                task="authors",
                seed=seed,
                environment=edited(found["environment"], commit="1a2b3c4d5e6f", python="3.11"),
                reason="all steps were made",
                created="2025-01-02T03:04:05+00:00",
                timing=edited(found["timing"], steps=steps, train_s=41.5, tokens_per_s=8120),
                peak_memory_bytes=2 << 30,
                parameters=edited(found["parameters"], total=1_000_000, trainable=812_345),
                alarms=("The forget loss rose for 20 steps after step 60.",),
            )
            RunRecord.model_validate(changed).write(root / "record.json")
        if steps:
            write_jsonl(root / "steps.jsonl", [_step(rng, i, steps) for i in range(1, steps + 1)])
        if audit:
            found = real("audit.json")
            other = found["retrained"][0]
            fields: dict[str, Any] = {
                "task": "authors",
                "task_fingerprint": "ab12cd34",
                "subject": edited(found["subject"], path="run/model", fingerprint="s"),
                "original": edited(found["original"], path="models/original", fingerprint="o"),
                "suite": ("standard",),
                "retrained": [edited(other, path=f"models/retrained{i}", fingerprint=f"r{i}")
                              for i in range(retrained)],
                "scores": (*scores(shift), *(attacked_scores(shift) if attacks else ())),
                "attacks": attack_records() if attacks else (),
                "verdict": verdict("suppresses", threats=threats()) if attacks else verdict("forgets"),
                "run": None,
            }
            Audit.model_validate(edited(found, **(fields | audit_fields))).write(root / "audit.json")
        if observations:
            for who in ("subject", "original", "retrained", "retrained2")[: 2 + retrained]:
                _observations(rng, who, hostile).write(root / "observations" / who)
                if attacks and who != "original":
                    _attacked(rng, root / "observations" / who / "attacks" / "relearn-1a2b3c", who)
        return root

    return build


def _attacked(rng: random.Random, folder: Path, who: str) -> None:
    """Relearning gives the subject every second answer back; rows of half the entities were asked."""
    plain = _observations(rng, "original" if who == "subject" else who, False).rows("generation", "forget")
    place = real_attack_folder()
    like = real_row("generation", "prompt", folder=place)
    rows = [edited(like, **row, attempt=0) for i, row in enumerate(plain) if i % 2]
    Observations({("generation", "forget"): rows}).write(folder)
    write_json(folder / "source.json", edited(real(f"{place}/source.json"), attack="relearn"))


def _step(rng: random.Random, i: int, steps: int) -> dict[str, Any]:
    done = i / steps
    line = edited(
        real("steps.jsonl")[0],
        step=i,
        epoch=i // 20,
        lr=1e-5 * min(1, i / 10),
        loss=14 - 9 * done + rng.gauss(0, 0.3),
        terms={"npo": 13.8 - 9 * done + rng.gauss(0, 0.3), "retain_kl": 0.2 + 0.3 * done * rng.random()},
        grad_norm=3 + rng.random(),
        grad_norm_forget=2 + rng.random(),
        grad_norm_retain=1 + rng.random(),
        cosine=-0.3 + rng.gauss(0, 0.1),
        forget_nll=0.1 + 2.4 * done,
        retain_nll=0.1 + 0.1 * done,
        seconds=0.05,
        eval={"forget": 0.95 - 0.8 * done, "utility": 0.93 - 0.05 * done},
    )
    left_out = ["cosine", "grad_norm_forget", "grad_norm_retain"] if i % 3 == 0 else []
    if i % 20:
        left_out.append("eval")
    return {key: value for key, value in line.items() if key not in left_out}
