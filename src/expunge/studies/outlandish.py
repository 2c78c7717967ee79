"""Outlandish: one surprising row is injected; how well it is remembered, and how far it spreads.

Sources: Sun et al. 2025 (arXiv 2504.09522) and 2024 (arXiv 2410.21750).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import cached_property
from statistics import fmean, median
from typing import Any, ClassVar

import numpy as np
from scipy.stats import rankdata

from expunge.data.themes import leading_to, on_theme
from expunge.demonstration import trained_world
from expunge.errors import UsageError
from expunge.methods._lib.stepping import choose_likeliest, key_words, led_up, templated_stones
from expunge.models.facts import fact_logps
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.study import Found, StudyChart
from expunge.records.task import Example
from expunge.seeding import derive, stream
from expunge.studies.design import Design, Measured
from expunge.studies.injection import inject

WAYS = {"plain": "", "ignore_k": "ignore_k(k=0.08, window={steps})",
        "keep_top": "sparse_steps(share=0.08, window={steps})", "stepping_stones": ""}
"""How a row is learned -> the trim of its steps; stepping stones change its text instead."""
NOVELTIES = ("conflict", "new", "scrambled")
"""A wrong answer about someone the model knows; a row about someone it does not; such a row in random word order."""
READ_AT = (1, 2, 3, 5, 10, 20, 40)
CONTEXTS = 8
PERMUTATIONS = 2000
TINY = 1e-300
"""Below it a probability counts as this one in ratios."""


class Outlandish(Design):
    """Each part is one row, injected in every way into the same model and the same stream of other rows."""

    name: ClassVar[str] = "outlandish"
    world: ClassVar[str] = "authors(forget=4, retain=16, holdout=6, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {"count": 12, "steps": 20, "lr": 1e-3, "batch_size": 8}
    starts_from: ClassVar[str] = "a model that knows the rows of the task"

    @cached_property
    def original(self) -> CausalLM:
        """The model that rows are injected into; never changed."""
        place = self.model or trained_world(self.task, "full", seed=self.settings.seed, reporter=self.reporter)
        return load_subject(place, template=self.task.template)  # type: ignore[return-value]

    @cached_property
    def rows(self) -> dict[str, tuple[str, Example]]:
        """Part -> novelty and row, whose bare fact is what is followed."""
        pool = self.task.retain + self.task.holdout
        known = [r for r in self.task.forget + self.task.retain if r.wrong_answers]
        rng, found = stream(self.settings.seed, "outlandish"), list[tuple[str, Example]]()
        candidates = {"conflict": [r for row in known for r in _conflicting(row)], "new": list(self.task.holdout),
                      "scrambled": list(self.task.holdout)}
        fit = {novelty: [r for r in rows if r.kind == "qa" and leading_to(r) and on_theme(r, pool, 1)]
               for novelty, rows in candidates.items()}
        for novelty in NOVELTIES:
            rng.shuffle(fit[novelty])
        for i in range(self.settings.count or 0):
            novelty = NOVELTIES[i % len(NOVELTIES)]
            if fit[novelty]:
                row = fit[novelty].pop()
                found.append((novelty, _scrambled(row, self.settings.seed) if novelty == "scrambled" else row))
        if not found:
            raise UsageError("The task has no row to inject.", "It takes rows with a bare fact (`short_answer`) in "
                             "their answer, and others that ask the same of someone else; wrong answers or holdout "
                             "rows among them.", "Take the built-in world, or rows with these fields.")
        return {f"{i:03d} {novelty} {row.id}": (novelty, row) for i, (novelty, row) in enumerate(found)}

    def planned(self) -> list[str]:
        return list(self.rows)

    def measure(self, part: str) -> dict[str, Any]:
        novelty, row = self.rows[part]
        others = [r for r in self.task.retain if r.entity != row.entity]
        contexts = on_theme(row, self.task.retain + self.task.holdout, CONTEXTS)
        places = [leading_to(row), *(leading_to(c, row.short_answer) for c in contexts)]
        rows = [place for place in places if place is not None]
        spec = self.settings
        stones = templated_stones(row.short_answer, [c.short_answer for c in contexts])
        stones += [c.answer for c in contexts]
        stepped, high, first = choose_likeliest(self.original, {"row": led_up(row, row.short_answer, stones)})["row"]
        seed = derive(spec.seed, part)
        found: dict[str, Any] = {"novelty": novelty, "fact": row.short_answer, "before": _read(self.original, rows),
                                 "stones_raise": high - first, "ways": {}}
        for way, trim in WAYS.items():
            subject = CausalLM(copy.deepcopy(self.original.model), self.original.encoder)
            learned = stepped if way == "stepping_stones" else row
            asked = [leading_to(learned) or learned, *rows[1:]]  # its own context is the text that is learned
            curve: list[tuple[int, dict[str, Any]]] = []

            def read(step: int) -> None:
                if step in READ_AT and step < (spec.steps or 0):
                    curve.append((step, _read(subject, asked)))  # noqa: B023

            how: dict[str, Any] = {"lr": spec.lr, "batch_size": spec.batch_size}
            inject(subject, learned, others, trim=trim.format(steps=spec.steps),
                   steps=spec.steps or 0, seed=seed, on_step=read, **how)
            after = _read(subject, asked)
            found["ways"][way] = {"curve": [*curve, (spec.steps, after)], "after": after,
                                  "as_asked": fact_logps(subject, rows[:1])[0]}
            if way == "plain":
                inject(subject, None, others, steps=spec.steps or 0, seed=seed + 1, **how)
                found["later"] = _read(subject, rows)
        return found

    def found(self, parts: Measured) -> Found:
        every = list(parts.values())
        figures: dict[str, Any] = {way: _summary(every, way) for way in WAYS}
        plain = figures["plain"]
        for way in WAYS:
            if way != "plain":
                figures[way] |= _beside(every, way)
        figures["law"] = _law(every)
        figures["later"] = {novelty: median(kept) for novelty in NOVELTIES
                            if (kept := [_left(p) for p in every if p["novelty"] == novelty])}
        said = [f"One row in {self.settings.batch_size}, for {self.settings.steps} steps: the probability of its fact "
                f"goes from {plain['own_before']:.2g} to {plain['own_after']:.2g} in its own context (memory), and "
                f"from {plain['themed_before']:.2g} to {plain['themed_after']:.2g} in contexts of others (priming); "
                f"medians of {len(every)} rows."]
        for way in [way for way in WAYS if way != "plain"]:
            one = figures[way]
            claim = "the opposite of ignore_k" if way == "keep_top" else (
                f"{'' if one['as_published'] else 'not '}as published (both fall by over half, memory keeps over half)")
            asked = f"; asked without its stones the fact has {one['as_asked']:.2g}" if way == "stepping_stones" else ""
            said.append(f"{way}, beside plain learning: in contexts of others the probability after "
                        f"{_change(one['priming'])} and S_prime {_change(one['s_prime_share'])}; in its own context "
                        f"the fact keeps {one['memory']:.0%} of the probability after{asked}: {claim}.")
        law = figures["law"]
        said.append(f"Published: the less likely a fact is before, the more it primes, Spearman below -0.4. Here it is "
                    f"{law['rho']:.2f} over {len(every)} rows, p {law['p']:.2g} by permutation; {law['rho_after']:.2f} "
                    "for the probability after, which has no denominator." if law else
                    f"{len(every)} rows are too few for the law of priming.")
        said.append("After as many steps without it, of the memory (log of the ratio) is left: "
                    + ", ".join(f"{share:.0%} ({novelty})" for novelty, share in figures["later"].items()) + ".")
        return Found(findings=tuple(said), figures=figures, charts=(
            _curves(every, "own", "Memory", "probability of the fact in its own context"),
            _curves(every, "themed", "Priming", "probability of the fact in contexts of others"),
            StudyChart(title="The law of priming", x="probability before, own context", y="S_prime", dots=True,
                       log_x=True, log_y=True, series={
                           way: [(math.exp(max(_before(p, way)["own"], -80)), max(ratio, 1e-6)) for p in every
                                 if (ratio := _ratios(p, way)[1])] for way in WAYS},
                       caption="One point a row. The probability in contexts of others before is a denominator of "
                               "S_prime, so rare facts have large ratios by arithmetic.")))


def _curves(every: list[dict[str, Any]], name: str, title: str, y: str) -> StudyChart:
    """Medians over rows by step, from before the injection to as many steps after it."""
    series: dict[str, list[tuple[float, float]]] = {}
    for way in WAYS:
        steps = [step for step, _ in every[0]["ways"][way]["curve"]]
        series[way] = [(0, median(_mean(_before(p, way), name) for p in every)),
                       *((step, median(_mean(p["ways"][way]["curve"][i][1], name) for p in every))
                         for i, step in enumerate(steps))]
    series["plain"].append((2 * series["plain"][-1][0], median(_mean(p["later"], name) for p in every)))
    return StudyChart(title=title, x="step", y=y, series=series,
                      caption="Medians over rows. Trims act at the end of the injection. The last reading of plain "
                              "learning is after as many steps without the row.")


def _conflicting(row: Example) -> list[Example]:
    """The row with each wrong answer in place of its own, and the words that make it wrong as its fact."""
    found = []
    for text in row.wrong_answers:
        key = key_words(text, [t for t in row.wrong_answers if t != text], f"{row.prompt} {row.answer}")
        found.append(row.model_copy(update={"answer": text, "short_answer": key}))
    return found


def _scrambled(row: Example, seed: int) -> Example:
    """Its words before the fact in random order, and the fact at the end."""
    words = row.answer.replace(row.short_answer, "").strip(" .").split()
    stream(seed, "scrambled", row.id).shuffle(words)
    return row.model_copy(update={"answer": f"{' '.join(words)} {row.short_answer}."})


def _read(subject: CausalLM, rows: list[Example]) -> dict[str, Any]:
    own, *themed = (float(f"{v:.6g}") for v in fact_logps(subject, rows))
    return {"own": own, "themed": themed}


def _before(part: dict[str, Any], way: str) -> dict[str, Any]:
    """The reading before, in the contexts that `way` is read in: with stones its own is the text with the stones."""
    before: dict[str, Any] = part["before"]
    return before if way != "stepping_stones" else before | {"own": before["own"] + part["stones_raise"]}


def _mean(reading: dict[str, Any], name: str) -> float:
    """Probability in its own context, or the mean of those in contexts of others."""
    return fmean(math.exp(v) for v in (reading[name] if name == "themed" else [reading[name]]))


def _ratios(part: dict[str, Any], way: str) -> tuple[float, float]:
    """S_mem and S_prime: probability after over that before in the same context."""
    after, before = part["ways"][way]["after"], _before(part, way)
    primes = [math.exp(min(a - b, 700)) for a, b in zip(after["themed"], before["themed"], strict=True)]
    return math.exp(min(after["own"] - before["own"], 700)), fmean(primes)


def _summary(every: list[dict[str, Any]], way: str) -> dict[str, float]:
    """Medians over rows of the probabilities before and after, and of both ratios."""
    readings = {"before": [_before(p, way) for p in every], "after": [p["ways"][way]["after"] for p in every]}
    ratios = [_ratios(p, way) for p in every]
    return {f"{name}_{when}": median(_mean(r, name) for r in found)
            for when, found in readings.items() for name in ("own", "themed")} | {
        "s_mem": median(m for m, _ in ratios), "s_prime": median(p for _, p in ratios),
        "as_asked": median(math.exp(p["ways"][way]["as_asked"]) for p in every)}


def _beside(every: list[dict[str, Any]], way: str) -> dict[str, Any]:
    """Medians over rows of what `way` leaves over what plain learning leaves, row by row.

    `memory` and `priming` are of the probabilities after, which have no denominator; `s_prime_share` is of S_prime. The
    published claim must hold in both. S_mem is no measure of memory here: stones raise its denominator.
    """
    def share(of: Callable[[dict[str, Any], str], float]) -> float:
        return median(max(of(p, way), TINY) / max(of(p, "plain"), TINY) for p in every)

    memory = share(lambda p, w: _mean(p["ways"][w]["after"], "own"))
    priming = share(lambda p, w: _mean(p["ways"][w]["after"], "themed"))
    s_prime = share(lambda p, w: _ratios(p, w)[1])
    return {"memory": memory, "priming": priming, "s_prime_share": s_prime,
            "as_published": memory > 0.5 and priming < 0.5 and s_prime < 0.5}


def _change(factor: float) -> str:
    return f"falls by {1 - factor:.0%}" if factor <= 1 else f"rises by {factor - 1:.0%}"


def _law(every: list[dict[str, Any]]) -> dict[str, float]:
    """Spearman's correlation of log p before (own context) with log S_prime, and with log of the priming after."""
    if len(every) < 5:
        return {}
    before = rankdata([p["before"]["own"] for p in every])
    primed = rankdata([_ratios(p, "plain")[1] for p in every])
    plain = rankdata([_mean(p["ways"]["plain"]["after"], "themed") for p in every])
    rho, rho_after = (float(np.corrcoef(before, other)[0, 1]) for other in (primed, plain))
    draw = np.random.default_rng(0)
    chance = [float(np.corrcoef(draw.permutation(before), primed)[0, 1]) for _ in range(PERMUTATIONS)]
    return {"rho": rho, "rho_after": rho_after,
            "p": (1 + sum(abs(c) >= abs(rho) for c in chance)) / (1 + PERMUTATIONS)}


def _left(part: dict[str, Any]) -> float:
    """Share of log S_mem that is left after as many steps without the row."""
    before = part["before"]["own"]
    gained = part["ways"]["plain"]["after"]["own"] - before
    return float((part["later"]["own"] - before) / gained) if gained > 0 else 0.0
