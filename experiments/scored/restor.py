"""RESTOR's accuracy and log-probabilities against its evaluation, on the same answers and judgements."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from official.taken import statements, taken

from expunge.benchmarks.restor import questions
from expunge.metrics.accepted import Accepted
from expunge.metrics.base import Evidence
from expunge.metrics.mean_logp import MeanLogp
from expunge.metrics.recovery import Recovery
from expunge.records.base import read_json
from expunge.records.observation import Observations, Row
from expunge.testing.observed_worlds import generation
from scored.cases import Chain, Compared, Source, each, furthest, value
from scored.muse import quietly
from scored.stubs import Knows, Says

REPOSITORY = "k1rezaei/restor"
COMMIT = "15292e58ccec7c82a14b4e05a94db06fc9689d97"
JUDGE = "evaluation/chat_gpt_eval/judge.py"
FILES = (JUDGE, "evaluation/eval_utils.py", "evaluation/mcqa_eval/mcqa_utils.py")
PEOPLE = 20


def compare(code: Path, seed: int) -> Iterator[Compared]:
    source = Source(seed)
    yield from _accuracy(code, source)
    yield from _answers(code, source)
    yield from _beliefs(code, source)


def _said(source: Source, counts: list[int], share: float) -> tuple[list[Row], list[list[Row]]]:
    """Rows of all people, and by person; this share of the answers is right."""
    by_person = []
    for person, count in enumerate(counts):
        rows = []
        for i in range(count):
            answer = f"name{int(source.random.integers(1000))}"
            text = f"It is {answer}, I think." if source.random.random() < share else source.text(5)
            rows.append(generation(f"p{person}/{i}", answer, text))
        by_person.append(rows)
    return [row for rows in by_person for row in rows], by_person


def _judged(code: Path, by_person: list[list[Row]]) -> tuple[float, float]:
    """Their accuracy over all people, in per cent, from judgements that are ours; and by their counts, not rounded."""
    judge = taken(code / JUDGE, "evaluate_judge_output")
    outputs = {}
    for person, rows in enumerate(by_person):
        right = each(Accepted(), Evidence(Observations({("generation", "neighbour"): rows})), "neighbour")
        outputs[f"person {person}"] = judge(json.dumps([
            {"judgment": "Accept" if one else "Reject", "question": "?", "output": row["text"],
             "answers": [row["reference"]]} for one, row in zip(right, rows, strict=True)]))
    space: dict[str, Any] = {"all_outputs": outputs}
    exec(statements(code / JUDGE, "tot_questions = 0", 4), space)
    logs = [line for one in outputs.values() for line in one["details"]]
    return float(space["tot_accuracy"]), 100 * sum("[JUDGE]: Accept" in line for line in logs) / len(logs)


def _accuracy(code: Path, source: Source) -> Iterator[Compared]:
    for counts, what, told in (
            ([20] * PEOPLE, "20 facts a person", ""),
            ([int(n) for n in source.random.integers(1, 30, PEOPLE)], "1 to 29 facts a person",
             "theirs rounds the accuracy of a person to 0.01 per cent")):
        models, accuracies, exact = [], [], []
        for share in (0.5, 0.1, 0.9):  # unlearned, corrupted, clean
            rows, by_person = _said(source, counts, share)
            models.append(Observations({("generation", "neighbour"): rows}))
            rounded, whole = _judged(code, by_person)
            accuracies.append(rounded / 100)
            exact.append(whole / 100)
        own = [value(Accepted(), Evidence(model), "neighbour") for model in models]
        yield Compared("neighbour.accepted", "accuracy of judge.py", f"three models, {what}", 3,
                       furthest(own, accuracies), told)
        if told:
            yield Compared("neighbour.accepted", "judgements counted by judge.py", f"three models, {what}", 3,
                           furthest(own, exact))
        evidence = Evidence(models[0], original=models[1], retrained=(models[2],))
        unlearned, corrupted, clean = exact
        yield Compared("neighbour.recovery", "their three accuracies", f"the share that came back, {what}", 1,
                       abs(value(Recovery(), evidence, "neighbour") - (unlearned - corrupted) / (clean - corrupted)))


def _answers(code: Path, source: Source) -> Iterator[Compared]:
    """What is asked, and what is read of an answer."""
    facts = read_json(code / "datasets/facts.json")
    people = [str(name) for name in source.random.choice(list(facts["dset"]), PEOPLE, replace=False)]
    asked = list(questions(facts["dset"], facts["context"], people))
    texts = [source.text(6, breaks=True) for _ in asked]
    says = Says([f" {text}" for text in texts])
    function = taken(code / "evaluation/eval_utils.py", "evaluate_model_on_fact_dataset", tqdm=lambda rows: rows)
    found = quietly(function, says, says, "cpu", facts, 0, 7, 200, entities_list=people)
    theirs = [one for of in found.values() for one in of.values()]
    apart = sum(row.prompt != one["prompt"] for row, one in zip(asked, theirs, strict=True))
    yield Compared("rows of the task restor", "prompts of evaluate_model_on_fact_dataset",
                   "the share of prompts that differ, published facts", len(asked), apart / len(asked))
    lines = [one["outputs"][0].strip() for one in theirs]
    blank = [text.startswith("\n") for text in texts]
    for chosen, what, told in ((False, "the share of answers of which another line is read", ""),
                               (True, "the share of answers that begin with line breaks of which another line is read",
                                "theirs skips one character, then reads to the line break")):
        pairs = [(text.strip().partition("\n")[0].strip(), line)
                 for text, line, starts in zip(texts, lines, blank, strict=True) if starts is chosen]
        yield Compared("neighbour.accepted", "outputs of evaluate_model_on_fact_dataset", what, len(pairs),
                       sum(a != b for a, b in pairs) / len(pairs), told)


def _beliefs(code: Path, source: Source) -> Iterator[Compared]:
    """Mean log p of a right answer and of three wrong ones."""
    chain = Chain(source)
    context = {"P1": [{"entity": f"E{i}", "question": "Where?", "answer": "Town"} for i in range(7)]}
    people = [f"E{i}" for i in range(PEOPLE)]
    data = {"dset": {person: {"P1": {"question": "Where?", "answers": []}} for person in people}, "context": context}
    options = {person: {"P1": {"correct": [source.text(4, empty=False)],
                               "corrupted": [source.text(4, empty=False) for _ in range(3)],
                               "random": [source.text(4, empty=False)]}} for person in people}
    function = taken(code / "evaluation/mcqa_eval/mcqa_utils.py", "evaluate_model_opinion_on_fact_dataset",
                     tqdm=lambda rows: rows)
    model = Knows(chain)
    found = quietly(function, model, model.tokenizer, "cpu", data, options, 0, batch_size=1)

    def rows(form: str, kind: str) -> list[Row]:
        return [belief(person, answer, form, index) for person in people
                for index, answer in enumerate(options[person]["P1"][kind])]

    def belief(person: str, answer: str, form: str, index: int) -> Row:
        """The values of the answer after the question, which ends in the same character for all."""
        whole = chain.row(person, f"Where? {answer}", form, index=index)
        kept = len(answer) + 1
        return {**whole, **{key: whole[key][-kept:] for key in ("logp", "mean", "var", "hit")}}

    for form, kind in (("answer", "correct"), ("wrong", "corrupted")):
        evidence = Evidence(Observations({("likelihood", "neighbour"): rows(form, kind)}))
        score = MeanLogp(form=form)
        theirs = [found[person]["P1"][kind]["average"] for person in people]
        yield Compared(score.label("neighbour"), f"evaluate_model_opinion_on_fact_dataset, {kind}",
                       "each fact, " + ("one right answer" if form == "answer" else "three wrong answers"), len(people),
                       furthest(each(score, evidence, "neighbour"), theirs))
