"""Promises of objectives that make rows from rows: alternates, inverted facts, unrelated answers.

Legend: N supervised tokens (flat).
"""

from __future__ import annotations

import atexit
import json
import random
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.methods._lib import divergence
from expunge.methods._lib.inverted import usable
from expunge.methods._lib.memo import cut, memo, positions
from expunge.methods.base import Objective, Preset
from expunge.methods.objectives.llmu import mean_logp
from expunge.methods.objectives.meow import choose
from expunge.methods.optimizers.adamw import AdamW
from expunge.methods.work import Work
from expunge.metrics.text.rouge import rouge
from expunge.models.subject import Subject
from expunge.models.tiny import build_subject
from expunge.plugin import Plugin
from expunge.records.task import Example, Task

from ..support import (
    CONFIG,
    KNOWN_REFUSALS,
    batch_of,
    batches_of,
    distance,
    draws_of,
    fresh,
    gradient,
    hooks,
    loss,
    memoriser,
    moved,
    same_random_state,
    small_task,
    stage_of,
    train,
    trained,
    weights,
)
from .checks import check, term
from .dynamics_checks import heard

ASCENT_ONLY = " + retain_kl(weight=0)"


def few(count: int = 4) -> Task:
    """The first forget rows alone."""
    return small_task().model_copy(update={"forget": small_task().forget[:count]})


def file_of(answers: Mapping[str, Sequence[str]]) -> str:
    """A temporary file of {id, answers}."""
    handle, path = tempfile.mkstemp(suffix=".jsonl")
    with open(handle, "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"id": id, "answers": list(texts)}) + "\n" for id, texts in answers.items())
    atexit.register(Path(path).unlink)
    return path


@cache
def wrong_file() -> str:
    """The world's wrong answers, which are what a model able to make up answers would write."""
    return file_of({r.id: r.wrong_answers for r in small_task().forget})


def said_by(subject: Subject, rows: Sequence[Example]) -> list[str]:
    return [text for text, _ in subject.generate([subject.encoder.prompt(r) for r in rows], 32)]


def likelihood_loss(rows: Sequence[Example], texts: Sequence[str]) -> float:
    """Mean token loss of these answers under the original: low for what reads like its own language."""
    return loss(memoriser(), [r.model_copy(update={"answer": t or "."}) for r, t in zip(rows, texts, strict=True)])


def likeness(rows: Sequence[Example], texts: Sequence[str]) -> tuple[float, float]:
    """Mean ROUGE-L recall against the truth, and against the best of the wrong answers."""
    truth = [rouge(r.answer, t) or 0.0 for r, t in zip(rows, texts, strict=True)]
    wrong = [max(rouge(w, t) or 0.0 for w in r.wrong_answers) for r, t in zip(rows, texts, strict=True)]
    return sum(truth) / len(rows), sum(wrong) / len(rows)


# All builders


@check
def leaves_no_mark(plugin: type[Objective]) -> None:
    """Building gives plain data, the same for the same seed; weights, mode and random state stay."""
    subject, before = fresh(), weights(memoriser())
    first = plugin().prepare(subject, few(), Work(seed=1))
    torch.manual_seed(99)  # not where the first call would have left it
    with same_random_state():
        again = plugin().prepare(subject, few(), Work(seed=1))
    assert json.loads(json.dumps(first)) == first == again
    assert all(torch.equal(p, before[n]) for n, p in weights(subject).items())
    assert hooks(subject) == [] and not subject.model.training


@check
def reads_answers(plugin: type[Objective], option: str) -> None:
    """Answers of a file are what rows are made of; a file that cannot be used is refused before a weight is loaded."""
    task = few(2)
    given = {task.forget[0].id: ["One thing.", " One thing. ", ""], task.forget[1].id: ["Another.", "A third."],
             "unknown": ["?"]}
    made = plugin(**{option: file_of(given)})
    assert made.problems(task) == []
    made.made = made.prepare(memoriser(), task, Work())
    for row, expected in zip(task.forget, ({"One thing."}, {"Another.", "A third."}), strict=True):
        drawn = [made.sides(row, task, random.Random(i)) for i in range(12)]
        for sides in drawn:
            changed = {side: r for side, r in sides.items() if side != "forget"}
            assert all(r.prompt == row.prompt and r.answer in expected for r in changed.values()) and changed
        assert {r.answer for sides in drawn for side, r in sides.items() if side != "forget"} == expected
    for content, error in (({"nobody": ["x"]}, DataError), ({task.forget[0].id: "x"}, None),
                           ({task.forget[0].id: [" ", task.forget[0].answer]}, UsageError)):
        path = file_of(content)  # type: ignore[arg-type]
        if error is None:
            Path(path).write_text(json.dumps({"id": task.forget[0].id, "answers": "x"}) + "\n")
        (problem,) = plugin(**{option: path}).problems(task.model_copy(update={"forget": (
            task.forget[0].model_copy(update={"wrong_answers": (), "entity": ""}),)}))
        assert isinstance(problem, error or DataError) and isinstance(problem, ExpungeError)
    assert isinstance(plugin(**{option: "nonesuch.jsonl"}).problems(task)[0], MissingError)


# Alternates


@check
def with_refusals_is_dpo(plugin: type[Objective]) -> None:
    """With refusals in place of alternates every step is that of dpo, bit for bit."""
    path = file_of({r.id: KNOWN_REFUSALS for r in small_task().forget})
    mine = train(term(plugin, {"alternates": path}), steps=3)
    theirs = train(f"dpo(refusals={heard()!r}) + retain_nll", steps=3)
    assert [line["terms"]["altpo"] for line in mine.lines] == [line["terms"]["dpo"] for line in theirs.lines]
    ends = [weights(run.subject) for run in (mine, theirs)]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@check
def stays_on_topic(plugin: type[Objective], unlike: str) -> None:
    """Greedy answers lose the truth but stay near the alternates and likely under the original; `unlike`'s do not.

    A model of this size cannot make up answers when asked, so they come from a file.
    """
    rows = small_task().forget
    runs = [trained(recipe, steps=30, lr=1e-3, watch=10).subject
            for recipe in (term(plugin, {"alternates": wrong_file()}), unlike)]
    mine, theirs = (said_by(subject, rows) for subject in runs)
    truth, alternate = likeness(rows, mine)
    assert truth < 0.6 < alternate, (truth, alternate)
    assert not {r.answer for r in rows} & set(mine)
    assert likeness(rows, theirs)[1] < 0.2
    assert likelihood_loss(rows, mine) < 0.4 * likelihood_loss(rows, theirs)


@check
def writes_alternates(plugin: type[Objective]) -> None:
    """Sampled from the model with the run's seed, at most as many as asked for, no copies of the truth."""
    task, options = few(), {"max_new_tokens": 24, "samples": 3}
    first, again, other = (plugin(**options).prepare(memoriser(), task, Work(seed=seed))["alternates"]
                           for seed in (0, 0, 1))
    assert first == again != other
    assert first.keys() == {r.id for r in task.forget}
    for row in task.forget:
        assert 1 <= len(set(first[row.id])) == len(first[row.id]) <= 3
        assert all(text.strip() == text and (rouge(row.answer, text) or 0) <= 0.9 for text in first[row.id])
    truth = "Ada was born in the town of Arle."
    assert usable([truth, f"Yes: {truth}", "", " She came from Bex. ", "She came from Bex.", "From Cole. Q: Where?",
                   "Question: Where?"], truth) == ["She came from Bex.", "From Cole."]


@check
def says_when_nothing_survives(plugin: type[Objective]) -> None:
    """A model that only repeats the truth, or a request without room, ends in advice."""
    for options, count in (({"prompt": "{question}", "temperature": 0.1}, 4), ({"prompt": "{question} " * 40}, 4)):
        with pytest.raises(UsageError, match=f"no alternate for {count} of 4") as refused:
            plugin(**options).prepare(memoriser(), few(), Work())
        assert "alternates=FILE" in refused.value.fix and "prompt=" in refused.value.fix
    task = few()
    part = file_of({r.id: ["Something else."] for r in task.forget[:3]})
    with pytest.raises(UsageError, match=f"no alternate for 1 of 4 forget rows, such as {task.forget[3].id}"):
        plugin(alternates=part).prepare(memoriser(), task, Work())


# Inverted facts and MEMO


@cache
def learnt() -> tuple[Subject, list[float]]:
    """A model of bytes that has learnt four rows by heart, and their mean MEMO before, during and after.

    Cuts between characters fall inside the tokens of a larger vocabulary, and so small a model has never
    seen half a word.
    """
    rows, readings = small_task().forget[:4], []
    small = {"vocab_size": 261, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    subject = build_subject(CONFIG | small, ["x"])
    for steps in (0, 40, 20, 25):
        if steps:
            train("retain_nll", subject=subject, forget=(), retain=rows, steps=steps, batch_size=4,
                  optimizer=AdamW(lr=5e-3, warmup=0.0, schedule="constant"))
        readings.append(sum(memo(subject, rows, cuts=3, max_new_tokens=60)) / len(rows))
    subject.model.requires_grad_(False)
    return subject, readings


@check
def memo_tells_memorised(plugin: type[Objective], above: float, below: float) -> None:
    """MEMO of answers learnt by heart is above the one bound, of unseen answers below the other, in any share."""
    subject, task = learnt()[0], small_task()
    for share in ("precision", "recall", "f1"):
        known, unseen = (memo(subject, rows[:4], share=share, max_new_tokens=60)  # type: ignore[arg-type]
                         for rows in (task.forget, task.holdout))
        assert min(known) > above and max(unseen) < below, (share, known, unseen)
    prefix = [memo(subject, rows[:12], mode="prefix", cuts=4, max_new_tokens=90)
              for rows in (task.forget, task.holdout)]
    assert sum(prefix[0]) > sum(prefix[1])


@check
def memo_grows(plugin: type[Objective]) -> None:
    """The longer rows are trained on, the higher their MEMO."""
    readings = learnt()[1]
    assert readings == sorted(readings) and readings[0] < 0.1 and readings[-1] > readings[0] + 0.7, readings


class Parrot(Subject):
    """Says the same to everything, and remembers how often it was asked."""

    def generate(self, prompts: Any, *args: Any, **options: Any) -> list[tuple[str, bool]]:
        self.asked = list(prompts)
        return [("two three four", True)] * len(prompts)


@check
def memo_by_hand(plugin: type[Objective]) -> None:
    """Cuts at 1, 1 + window, ... inside the text, thinned evenly; shares as defined; nothing asked twice."""
    assert positions(11) == [1, 6] and positions(12) == [1, 6, 11] and positions(1) == []
    assert positions(51, 5, 3) == [1, 21, 46] and positions(51, 5, 1) == [1] and positions(12, 5, 9) == [1, 6, 11]
    subject = Parrot(memoriser().model, memoriser().encoder)
    row = Example(id="a", prompt="Count?", answer="one two three")
    # Behind the cuts at 1, 5 and 9: "ne two three", "wo three", "hree".
    for share, parts in (("precision", (2 / 3, 1 / 3, 0)), ("recall", (2 / 3, 1 / 2, 0)), ("f1", (2 / 3, 0.4, 0))):
        found = memo(subject, [row, row], window=4, share=share)  # type: ignore[arg-type]
        assert found == pytest.approx([sum(parts) / 3] * 2)
        assert len(subject.asked) == 3
    tokens = subject.encoder
    ids, rest = cut(tokens, row, 5, "suffix")
    assert rest == "wo three" and tokens.processor.decode(ids).endswith("one t")
    assert ids[: len(tokens.prompt(row))] == tokens.prompt(row)
    ids, rest = cut(tokens, row, 3, "prefix")
    assert rest.startswith("nt?") and rest.endswith(" one two three") and tokens.processor.decode(ids).endswith("Cou")
    assert memo(subject, [row.model_copy(update={"answer": "x!"})]) == [0.0], "no word is left behind its cut"
    with pytest.raises(UsageError, match="no question"):
        memo(subject, [row.model_copy(update={"prompt": "", "kind": "text"})], mode="prefix")


@check
def believes_inversion(plugin: type[Objective]) -> None:
    """Greedy answers are nearer to a wrong answer than to the truth, and read as well as the wrong answers do."""
    rows = small_task().forget
    # Long enough that no row is left at the edge: after 30 steps rounding decides about one of the 18.
    said = said_by(trained(term(plugin), steps=60, lr=1e-3, watch=10).subject, rows)
    truth, inverted = likeness(rows, said)
    assert inverted > truth + 0.25 and inverted > 0.7, (truth, inverted)
    assert not {r.answer for r in rows} & set(said)
    given = sum(likelihood_loss(rows, [r.wrong_answers[k] for r in rows]) for k in range(5)) / 5
    assert likelihood_loss(rows, said) < given + 0.5


@check
def selects_by_memory(plugin: type[Objective]) -> None:
    """The chosen are the first by score, ties in their order; every rule gives its own set, always the same."""
    scores, rng = [0.2, 0.5, 0.5, 0.1], random.Random(0)
    assert choose(scores, 3, "largest", rng) == [1, 2, 0] and choose(scores, 3, "smallest", rng) == [3, 0, 1]
    assert choose([0.3] * 3, 2, "largest", rng) == choose([0.3] * 3, 2, "smallest", rng) == [0, 1]
    assert choose(scores[:2], 3, "largest", rng) == [1, 0], "fewer than asked for, none of them twice"
    assert sorted(choose(scores, 4, "random", rng)) == [0, 1, 2, 3]
    assert choose(scores, 3, "random", random.Random(5)) == choose(scores, 3, "random", random.Random(5))
    found = {}
    for select in ("largest", "smallest", "random"):
        options = {"select": select, "top_k": 2, "cuts": 3, "max_new_tokens": 24}
        found[select], again = (plugin(**options).prepare(memoriser(), few(9), Work(seed=3)) for _ in range(2))
        assert found[select] == again
    for row in few(9).forget:
        ranks = found["largest"]["memo"][row.id]
        for select, best in (("largest", max), ("smallest", min)):
            first = row.wrong_answers.index(found[select]["chosen"][row.id][0])
            assert ranks[first] == best(ranks)
    chosen = [json.dumps(found[select]["chosen"]) for select in found]
    assert len(set(chosen)) == 3
    made = plugin(copies=8, top_k=3)
    made.made = {"lenders": {"a": ["a"]}, "chosen": {"a": ["x", "y", "z"]}}
    row = Example(id="a", prompt="?", answer="!")
    drawn = Counter(made.sides(row, small_task(), random.Random(i))["inverted"].answer for i in range(800))
    assert all(abs(drawn[text] / 100 - share) < 0.6 for text, share in (("x", 3), ("y", 3), ("z", 2))), drawn


@check
def lends_answers(plugin: type[Objective]) -> None:
    """Running text about somebody is trained through that person's inverted facts; nobody's text is a problem."""
    task = few(3)
    text = Example(id="life", prompt="", kind="text", answer="A life.", entity=task.forget[0].entity)
    with_text = task.model_copy(update={"forget": (*task.forget, text)})
    assert plugin().problems(with_text) == []
    made = plugin(select="random")
    made.made = made.prepare(memoriser(), with_text, Work())
    drawn = [made.sides(text, with_text, random.Random(i))["inverted"] for i in range(20)]
    assert {d.id for d in drawn} == {r.id for r in task.forget}
    assert all(d.answer in r.wrong_answers for d in drawn for r in task.forget if r.id == d.id)
    nobody = task.model_copy(update={"forget": (*task.forget, text.model_copy(update={"entity": ""}))})
    (problem,) = plugin().problems(nobody)
    assert "1 of 4" in problem.what and "life" in problem.what and "inverted=FILE" in problem.fix
    with pytest.raises(UsageError, match="life"):
        plugin().prepare(memoriser(), nobody, Work())


# Ascent with unrelated answers


@check
def is_answer_ascent(plugin: type[Objective]) -> None:
    """Without the other two terms: ascent on the answer tokens, every row weighing the same."""
    recipe = term(plugin, {"ascent": 1.0, "mismatch": 0.0}) + ASCENT_ONLY
    draws = draws_of(recipe, moved(), 4)
    assert all(set(d) == {"forget"} for d in draws)
    mine = gradient(recipe, moved(), batches=[batches_of(moved(), draws)]).total()
    rows = [gradient("ga", moved(), batches=[batches_of(moved(), [d])]).total() for d in draws]
    assert distance(mine, [torch.stack(parts).mean(0) for parts in zip(*rows, strict=True)]) < 1e-5
    alone = batches_of(moved(), draws[:1])
    assert distance(gradient(recipe, moved(), batches=[alone]).total(), rows[0]) < 1e-6


@check
def weighs_two_terms(plugin: type[Objective]) -> None:
    """e1 * mean log p(answer) - e2 * mean over the unrelated answers, row by row and answer by answer."""
    recipe = term(plugin, {"answers": 3, "ascent": 0.5, "mismatch": 2.0}) + ASCENT_ONLY
    draws = draws_of(recipe, moved(), 3)
    mine = gradient(recipe, moved(), batches=[batches_of(moved(), draws)])
    subject = fresh(moved())
    parameters = tuple(subject.model.requires_grad_(True).parameters())
    sides = {side: torch.stack([mean_logp(subject.answers(batch_of(subject, [d[side]])))[0] for d in draws])
             for side in draws[0]}
    others = [value for side, value in sides.items() if side != "forget"]
    ascent, mismatch = 0.5 * sides["forget"].mean(), -2.0 * torch.stack(others).mean()
    assert len(others) == 3
    assert mine.values["llmu_ascent"] == pytest.approx(ascent.item(), rel=1e-4)
    assert mine.values["llmu_mismatch"] == pytest.approx(mismatch.item(), rel=1e-4)
    assert distance(mine.total(), torch.autograd.grad(ascent + mismatch, parameters)) < 1e-4


@check
def answers_are_benign(plugin: type[Objective]) -> None:
    """Distinct answers of retain rows to the forget question, others each time; repeated only when there are few."""
    task, made = small_task(), plugin()
    kept = {r.answer for r in task.retain}
    drawn = [made.sides(task.forget[0], task, random.Random(i)) for i in range(3)]
    for sides in drawn:
        assert tuple(sides) == made.reads and len(sides) == 6 and sides["forget"] == task.forget[0]
        others = [r for side, r in sides.items() if side != "forget"]
        assert all(r.prompt == task.forget[0].prompt and r.answer in kept for r in others)
        assert len({r.answer for r in others}) == 5
    assert len({tuple(r.answer for r in sides.values()) for sides in drawn}) == 3
    scarce = task.model_copy(update={"retain": task.retain[:2]})
    assert len(made.sides(task.forget[0], scarce, random.Random(0))) == 6
    assert made.unbounded and not plugin(ascent=0).unbounded


# The study's settings


def bleu(reference: str, text: str, longest: int = 2) -> float:
    """BLEU of one text over n-grams of 1 to `longest` words, with the brevity penalty, in 0..1."""
    expected, said, total = reference.lower().split(), text.lower().split(), 0.0
    for n in range(1, longest + 1):
        theirs, ours = (Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (expected, said))
        hits = sum((theirs & ours).values())
        if not hits:
            return 0.0
        total += log(hits / sum(ours.values())) / longest
    return exp(total + min(0.0, 1 - len(expected) / len(said)))


def study(plugin: type[Plugin]) -> Subject:
    """What the preset makes of the memoriser in 60 steps of the study's batch size."""
    return trained(plugin.card.name, steps=60, batch_size=2).subject


@check
def unlearns_continuations(plugin: type[Preset], kl: float) -> None:
    """Continuations resemble the text less than what the original says of people it never met, and retain rows stay."""

    def resemblance(subject: Subject, rows: Sequence[Example]) -> float:
        return sum(bleu(r.answer, t) for r, t in zip(rows, said_by(subject, rows), strict=True)) / len(rows)

    task, subject = small_task(), study(plugin)
    assert resemblance(memoriser(), task.forget) > 0.95
    assert resemblance(subject, task.forget) < resemblance(memoriser(), task.holdout)
    batch = batch_of(subject, task.retain)
    with torch.no_grad():
        drift_N = divergence.kl(memoriser().answers(batch).logits_NV, subject.answers(batch).logits_NV)
    assert 0 < float(drift_N.mean()) < kl
    assert loss(memoriser(), [r.model_copy(update={"answer": t}) for r, t in
                              zip(task.forget, said_by(subject, task.forget), strict=True)]) < 6, "no gibberish"


@check
def adapter_alone_moves(plugin: type[Preset]) -> None:
    """The base keeps its bits, the adapter moved, its original is the model without it, and merging is exact."""
    subject, before = fresh(study(plugin)), weights(memoriser())
    stage = stage_of(plugin.card.name)
    assert stage.scope.adapter and (stage.scope.spec.rank, stage.scope.spec.alpha) == (16, 32)
    base = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in weights(subject).items()
            if "lora_" not in n}
    assert base.keys() == before.keys() and all(torch.equal(p, before[n]) for n, p in base.items())
    batch = batch_of(subject, small_task().forget[:5])
    with torch.no_grad():
        apart = subject.answers(batch).logits_NV
        with subject.model.disable_adapter():
            off = subject.answers(batch).logits_NV
        start = memoriser().answers(batch).logits_NV
        subject.model = subject.model.merge_and_unload()
        merged = subject.answers(batch).logits_NV
    assert torch.equal(off, start) and float((apart - start).abs().max()) > 0.1
    torch.testing.assert_close(merged, apart, atol=1e-4, rtol=1e-4)
