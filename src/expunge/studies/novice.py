"""Novice: skills are unlearned and taught again, beside a model that never had them.

Source: Simulating novice students with unlearning and relearning (arXiv 2603.26142).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from expunge import api
from expunge.data.themes import leading_to
from expunge.errors import UsageError
from expunge.models.facts import fact_logps
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.models.scope import Scope
from expunge.records.study import Found, StudyChart
from expunge.records.task import Example, Task
from expunge.seeding import derive, stream
from expunge.studies.design import Design, Measured
from expunge.training.plain import Plain, train_plainly

TAUGHT = 1 / 3
"""Share of the questions of a skill that are taught again; the others only test."""
STUDENTS = ("unlearned", "never taught")
FEWEST, WRONG = 6, 3
"""Questions of a skill at least, and wrong options of a question."""


def skill_of(row: Example) -> str:
    """What a question asks for: the last part of its id, as in the built-in world, else its group."""
    return row.id.rsplit("/", 1)[1] if "/" in row.id else row.group


def with_choices(rows: Sequence[Example], seed: int) -> list[Example]:
    """The rows of one skill, each with its fact and up to three facts of other rows as options.

    All of them are somebody's: a value that no row holds is split into more tokens, and so less likely for that alone.
    """
    facts = sorted({row.short_answer for row in rows})
    found = []
    for row in rows:
        rng = stream(seed, "choices", row.id)
        wrong = rng.sample([f for f in facts if f != row.short_answer], min(WRONG, len(facts) - 1))
        found.append(row.model_copy(update={"options": (row.short_answer, *wrong)}))
    return found


def accuracy(subject: CausalLM, rows: Sequence[Example]) -> float:
    """Share of rows whose fact is likelier than every other option in its place in the answer."""
    choices = [(i, option) for i, row in enumerate(rows) for option in row.options]
    led = [leading_to(rows[i], option) for i, option in choices]
    best: dict[int, tuple[float, str]] = {}
    for (i, option), logp in zip(choices, fact_logps(subject, [row for row in led if row is not None]), strict=True):
        best[i] = max(best.get(i, (float("-inf"), "")), (logp, option))
    return fmean(best[i][1] == row.short_answer for i, row in enumerate(rows)) if rows else 0.0


class Novice(Design):
    """Each part unlearns so many skills, and teaches them again in the planted order."""

    name: ClassVar[str] = "novice"
    world: ClassVar[str] = "authors(forget=14, retain=1, holdout=0, neighbours=0)"
    defaults: ClassVar[dict[str, Any]] = {
        "count": 3, "steps": 20, "lr": 1e-3, "epochs": 30.0, "batch_size": 8,
        "method": "npo + retain_nll(weight=3) + adamw(lr=3e-4, weight_decay=0)"}

    @cached_property
    def skills(self) -> dict[str, list[Example]]:
        """Skill -> its questions, in the planted order of the curriculum."""
        found: dict[str, list[Example]] = {}
        for row in self.task.forget + self.task.retain:
            if row.kind == "qa" and leading_to(row) is not None:
                found.setdefault(skill_of(row), []).append(row)
        names = sorted(skill for skill, rows in found.items()
                       if skill and len(rows) >= FEWEST and len({r.short_answer for r in rows}) > 1)
        count = self.settings.count or 1
        if len(names) <= count:
            raise UsageError(f"The task has {len(names)} skills, and more than {count} are needed.",
                             f"A skill is a group of {FEWEST} questions or more with a bare fact in the answer; one "
                             "at least is kept.", "Lower --count, or leave --task out for the built-in world.")
        stream(self.settings.seed, "curriculum").shuffle(names)
        return {name: with_choices(found[name], self.settings.seed) for name in names}

    def planned(self) -> list[str]:
        parts = {f"{n} skill{'s' * (n > 1)}": n for n in sorted({1, self.settings.count or 1})}
        for part, count in parts.items():
            api.plan_untrained(self.size, task=self._task(part, count), **self.unlearning(self.settings.method or ""))
        return list(parts)

    def _task(self, part: str, count: int) -> Task:
        """The first skills are forgotten, and the others kept."""
        chosen, others = list(self.skills)[:count], list(self.skills)[count:]
        return Task(name=f"{self.task.name}, {part}", forget=tuple(r for s in chosen for r in self.skills[s]),
                    retain=tuple(r for s in others for r in self.skills[s]), template=self.task.template,
                    generation_tokens=self.task.generation_tokens)

    def measure(self, part: str) -> dict[str, Any]:
        count = int(part.split()[0])
        chosen, task = list(self.skills)[:count], self._task(part, count)
        original = self.trained(task, "full", self.work / "original")
        recipe, never = self.settings.method or "", self.work / f"never-{count}"
        places = {"never taught": self.trained(task, "retain", never),
                  "unlearned": self.unlearned(original, task, recipe, self.work / f"unlearned-{count}")}
        taught = {s: self._taught(s) for s in chosen}
        kept = list(task.retain)
        found: dict[str, Any] = {"skills": chosen, "chance": fmean(1 / len(r.options) for r in task.forget),
                                 "before": {"target": accuracy(self._load(original), task.forget),
                                            "kept": accuracy(self._load(original), kept)}, "students": {}}
        for name in STUDENTS:
            subject = self._load(places[name])
            after = {"target": accuracy(subject, task.forget), "kept": accuracy(subject, kept)}
            said = self._said(subject, task.forget)
            found["students"][name] = {"after": after, "said": said, "phases": self._teach(subject, taught)}
        return found

    def _load(self, place: Path) -> CausalLM:
        return load_subject(place, template=self.task.template)  # type: ignore[return-value]

    def _taught(self, skill: str) -> list[Example]:
        """The questions of a skill that are taught again."""
        rows = list(self.skills[skill])
        stream(self.settings.seed, "taught", skill).shuffle(rows)
        return rows[: max(round(TAUGHT * len(rows)), 1)]

    def _teach(self, subject: CausalLM, taught: Mapping[str, Sequence[Example]]) -> list[dict[str, Any]]:
        """Accuracy on taught and on other questions of each skill, before the first phase and after each."""
        scope = Scope(subject, tuple(name for name, _ in subject.model.named_parameters()))

        def read() -> dict[str, Any]:
            tests = {s: [r for r in self.skills[s] if r not in rows] for s, rows in taught.items()}
            return {"taught": {s: accuracy(subject, rows) for s, rows in taught.items()},
                    "untaught": {s: accuracy(subject, rows) for s, rows in tests.items()}}

        phases = [read()]
        for skill, rows in taught.items():
            train_plainly(subject, scope, rows, Plain(self.settings.lr or 0.0), steps=self.settings.steps or 0,
                          batch_size=self.settings.batch_size, seed=derive(self.settings.seed, "teach", skill))
            phases.append(read())
        return phases

    def _said(self, subject: CausalLM, rows: Sequence[Example]) -> dict[str, float]:
        """Shares of greedy answers that hold the fact, and that hold any fact of its skill."""
        texts = [text for text, _ in subject.generate([subject.encoder.prompt(r) for r in rows], 32)]
        values = {s: {v for r in each for v in (*r.options, r.short_answer)} for s, each in self.skills.items()}
        return {"right": fmean(r.short_answer in t for r, t in zip(rows, texts, strict=True)),
                "plausible": fmean(any(v in t for v in values[skill_of(r)]) for r, t in zip(rows, texts, strict=True))}

    def _untaught(self, skills: Sequence[str]) -> int:
        """How many questions of these skills only test."""
        return sum(len(self.skills[s]) - len(self._taught(s)) for s in skills)

    def found(self, parts: Measured) -> Found:
        said, charts, figures = list[str](), list[StudyChart](), dict[str, Any]()
        for part, one in parts.items():
            mine, other = (one["students"][name] for name in STUDENTS)
            lost = one["before"]["target"] - mine["after"]["target"]
            gains = {name: _mean(s["phases"][-1]["untaught"]) - _mean(s["phases"][0]["untaught"])
                     for name, s in one["students"].items()}
            figures[part] = {"before": one["before"], "after": {n: s["after"] for n, s in one["students"].items()},
                             "gain_on_untaught": gains, "recovered": gains["unlearned"] / lost if lost > 0 else None,
                             "own_phase": {n: _own_phase(s["phases"], one["skills"])
                                           for n, s in one["students"].items()},
                             "said": {n: s["said"] for n, s in one["students"].items()}}
            own = figures[part]["own_phase"]
            said.append(f"{part} unlearned: accuracy on their questions goes from {one['before']['target']:.2f} to "
                        f"{mine['after']['target']:.2f} (never taught {other['after']['target']:.2f}, chance "
                        f"{one['chance']:.2f}), on the kept skills from {one['before']['kept']:.2f} to "
                        f"{mine['after']['kept']:.2f}; {mine['said']['plausible']:.0%} of answers still name a fact of "
                        "the right kind.")
            speed = {name: fmean(_mean(p["taught"]) for p in s["phases"][1:]) for name, s in one["students"].items()}
            figures[part]["taught_along_the_way"] = speed
            said.append(f"Of the questions that are taught again it knows {speed['unlearned']:.2f} along the way, and "
                        f"the model that was never taught {speed['never taught']:.2f}; {own['unlearned']} of "
                        f"{len(one['skills'])} skills rise most in their own phase of the curriculum, and "
                        f"{own['never taught']} in the model never taught.")
            charts += [StudyChart(title=f"{part}: {which} questions", x="phase of the curriculum", y="accuracy",
                                  series={name: [(i, _mean(p[which])) for i, p in enumerate(s["phases"])]
                                          for name, s in one["students"].items()},
                                  caption=f"Means over {', '.join(one['skills'])}, taught in this order; phase 0 is "
                                          "before.") for which in ("taught", "untaught")]
        most = list(parts)[-1]
        gain, noise = figures[most]["gain_on_untaught"], 2 * (0.5 / self._untaught(parts[most]["skills"])) ** 0.5
        hidden = gain["unlearned"] - gain["never taught"]
        claim = "What was unlearned was hidden, not gone" if hidden > noise else "No sign of hidden knowledge"
        said.insert(0, f"{claim}: taught a third of the questions of {most} again, the model gains "
                    f"{gain['unlearned']:+.2f} in accuracy on the others, and one that never had them "
                    f"{gain['never taught']:+.2f}; differences below {noise:.2f} are noise. Unlearned by "
                    f"{self.settings.method}.")
        return Found(findings=tuple(said), figures=figures, charts=tuple(charts))


def _mean(by_skill: Mapping[str, float]) -> float:
    return fmean(by_skill.values())


def _own_phase(phases: Sequence[Mapping[str, Any]], skills: Sequence[str]) -> int:
    """How many skills rise most, on taught questions, in the phase that teaches them."""
    rises = {s: [b["taught"][s] - a["taught"][s] for a, b in pairwise(phases)] for s in skills}
    return sum(rise[i] > 0 and rise[i] == max(rise) for i, rise in enumerate(rises[s] for s in skills))
