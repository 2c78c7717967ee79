"""Synthetic run and audit folders with plausible numbers; no model is involved."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.judgement.leaks import decided
from expunge.records.base import write_json, write_jsonl
from expunge.records.observation import Observations
from expunge.records.run import RunRecord
from expunge.records.score import AttackRecord, Audit, Score, SubjectRef, Threat, Verdict

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


def _likelihood(
    rng: random.Random, identity: str, form: str, index: int, level: float, correct: bool
) -> dict[str, Any]:
    mean = math.log(min(0.99, max(1e-4, level * math.exp(rng.gauss(0, 0.45)))))
    logp = [mean + rng.gauss(0, 0.2) for _ in range(8)]
    return {
        "id": identity,
        "entity": identity.split("/")[0],
        "group": "",
        "form": form,
        "index": index,
        "correct": correct,
        "text": "text",
        "logp": logp,
        "mean": [-6.0] * 8,
        "var": [4.0] * 8,
        "hit": [value > -1 for value in logp],
        "end": 1,
    }


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
                {
                    "id": identity,
                    "entity": person,
                    "group": "",
                    "form": "prompt",
                    "index": 0,
                    "prompt": f"What is the {what} of {person}?",
                    "reference": answer,
                    "text": said,
                    "stopped": i % 7 != 3,
                }
            )
        found["likelihood", split] = likelihood
        if split != "holdout":
            found["generation", split] = generation
    return Observations(found)


def scores(shift: float = 0.0) -> tuple[Score, ...]:
    def one(name: str, value: float, original: float, retrained: float, **rest: Any) -> Score:
        return Score(
            **{  # type: ignore[arg-type]
                "name": name,
                "value": value + shift,
                "interval": (value + shift - 0.03, value + shift + 0.04),
                "n": 40,
                "higher_is": "knows",
                "ideal": "reference",
                "range": (0, 1),
                "controls": {"original": original, "retrained": retrained},
            }
            | rest
        )

    return (
        one("forget.probability", 0.16, 0.95, 0.13),
        one("forget.rouge_l", 0.41, 0.98, 0.38, access="text"),
        one("forget.truth_ratio", 0.71, 0.08, 0.68),
        one("forget.exact_memorization", 0.35, 0.99, 0.33),
        one("forget_quality", 0.27, 2.1e-13, 1.0, higher_is="forgot", ideal=1.0),
        one("mia.loss", 0.52, 0.99, 0.5, ideal=0.5),
        one("privleak", -3.2, -99.0, 0.0, higher_is="neutral", range=(-100, 100)),
        one("model_utility", 0.86, 0.91, 0.9, n=120),
        one("retain.probability", 0.9, 0.94, 0.93),
        one("retain.rouge_l", 0.93, 0.97, 0.96),
        Score(name="mia.reference", value=None, unavailable="no reference model was given"),
    )


RELEARN = {"relearn(steps=5)": 0.05, "relearn": 0.3}
ATTACKS = (
    AttackRecord(
        term="relearn(at=[5])",
        labels=tuple(RELEARN),
        access="weights",
        splits_entities=True,
        summary="fine-tune on half of it",
        caution="Only the lead counts.",
    ),
    AttackRecord(
        term="prefix(words=3)", labels=("prefix(words=3)",), access="text", splits_entities=False,
        summary="begin agreeably"
    ),
    AttackRecord(term="interpolate", labels=("interpolate",), access="weights", splits_entities=False, summary="merge"),
)


def attacked_scores(shift: float = 0.0) -> tuple[Score, ...]:
    """Relearning succeeds in the end; a prefix does not; merging could not be run."""
    found = []
    for label, excess in {**RELEARN, "prefix(words=3)": -0.02}.items():
        for name, control in (("forget.probability", 0.13), ("forget.rouge_l", 0.38), ("retain.probability", 0.9)):
            text_only = label.startswith("prefix")
            access = "weights" if not text_only else "text" if name == "forget.rouge_l" else "logits"
            gain = excess + shift if name.startswith("forget") else -0.05
            found.append(
                Score(
                    name=name,
                    attack=label,
                    value=control + gain,
                    interval=(control + gain - 0.04, control + gain + 0.04),
                    n=20,
                    higher_is="knows",
                    range=(0, 1),
                    access=access,  # type: ignore[arg-type]
                    controls={"original": 0.95, "retrained": control},
                    before=0.16,
                    excess=gain,
                    excess_interval=(gain - 0.08, gain + 0.08),
                    gain=gain,
                    gain_interval=(gain - 0.08, gain + 0.08),
                    entities=20,
                    floor=0.01,
                    recovered=(control + gain - 0.16) / 0.79,
                    attempts=1,
                )
            )
    found.append(
        Score(name="forget.rouge_l", attack="interpolate", value=None, unavailable="it needs the original model")
    )
    return decided(found)


THREATS = (
    Threat(access="text", outcome="forgets", sentence="The 1 attack brought out no more.", tested=("prefix(words=3)",)),
    Threat(access="logits", outcome="over-forgets", sentence="It shows less."),
    Threat(access="gradients", outcome="not tested", sentence="No attack.", not_tested=("prompts searched",)),
    Threat(
        access="weights",
        outcome="suppresses",
        sentence="Left alone it does not show it, but relearn brings it back.",
        strongest="relearn",
        metric="forget.probability",
        tested=("relearn",),
    ),
)


VERDICT = Verdict(
    outcome="forgets",
    sentences=(
        "On forget rows the answer probability is 0.160, against 0.130 after retraining.",
        "The truth ratios cannot be told from the retrained model's (p = 0.27).",
    ),
    not_tested=("Quantisation of the weights.", "Prompts in another language."),
)


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
            RunRecord(
                kind="forget",
                recipe=recipe,
                recipe_full={"stages": [{"terms": recipe.split(" + ")}]},
                settings={"steps": steps or None, "batch_size": 8},
                model="models/original",
                model_fingerprint="0f1e2d3c4b5a6978",
                task="authors",
                task_fingerprints={"forget": "ab12", "retain": "cd34"},
                seed=seed,
                environment={"commit": "1a2b3c4d5e6f", "python": "3.11"},
                status="finished",
                reason="all steps were made",
                created="2025-01-02T03:04:05+00:00",
                timing={"steps": steps, "train_s": 41.5, "tokens_per_s": 8120},
                peak_memory_bytes=2 << 30,
                parameters={"total": 1_000_000, "trainable": 812_345},
                alarms=("The forget loss rose for 20 steps after step 60.",),
            ).write(root / "record.json")
        if steps:
            write_jsonl(root / "steps.jsonl", [_step(rng, i, steps) for i in range(1, steps + 1)])
        if audit:
            fields: dict[str, Any] = {
                "task": "authors",
                "task_fingerprint": "ab12cd34",
                "subject": SubjectRef(path="run/model", fingerprint="s"),
                "original": SubjectRef(path="models/original", fingerprint="o"),
                "suite": ("standard",),
                "retrained": tuple(
                    SubjectRef(path=f"models/retrained{i}", fingerprint=f"r{i}") for i in range(retrained)
                ),
                "scores": scores(shift),
                "verdict": VERDICT,
            } | audit_fields
            if attacks:
                fields = {
                    **fields,
                    "attacks": ATTACKS,
                    "scores": (*scores(shift), *attacked_scores(shift)),
                    "verdict": VERDICT.model_copy(update={"outcome": "suppresses", "threats": THREATS}),
                } | audit_fields
            Audit(**fields).write(root / "audit.json")
        if observations:
            for who in ("subject", "original", "retrained", "retrained2")[: 2 + retrained]:
                _observations(rng, who, hostile).write(root / "observations" / who)
                if attacks and who != "original":
                    _attacked(rng, root / "observations" / who / "attacks" / "relearn-1a2b3c", who)
        return root

    return build


def _attacked(rng: random.Random, folder: Path, who: str) -> None:
    """Relearning gives the subject every second answer back; rows of half the people were asked."""
    plain = _observations(rng, "original" if who == "subject" else who, False).rows("generation", "forget")
    rows = [{**row, "attempt": 0} for i, row in enumerate(plain) if i % 2]
    Observations({("generation", "forget"): rows}).write(folder)
    write_json(folder / "source.json", {"schema": "expunge.observations/2", "attack": "relearn", "split": "forget"})


def _step(rng: random.Random, i: int, steps: int) -> dict[str, Any]:
    done = i / steps
    line: dict[str, Any] = {
        "step": i,
        "epoch": i // 20,
        "lr": 1e-5 * min(1, i / 10),
        "loss": 14 - 9 * done + rng.gauss(0, 0.3),
        "terms": {"npo": 13.8 - 9 * done + rng.gauss(0, 0.3), "retain_kl": 0.2 + 0.3 * done * rng.random()},
        "grad_norm": 3 + rng.random(),
        "grad_norm_forget": 2 + rng.random(),
        "grad_norm_retain": 1 + rng.random(),
        "cosine": -0.3 + rng.gauss(0, 0.1),
        "forget_nll": 0.1 + 2.4 * done,
        "retain_nll": 0.1 + 0.1 * done,
        "seconds": 0.05,
    }
    if i % 3 == 0:
        line["cosine"] = None
    if i % 20 == 0:
        line["eval"] = {"forget": 0.95 - 0.8 * done, "utility": 0.93 - 0.05 * done}
    return line
