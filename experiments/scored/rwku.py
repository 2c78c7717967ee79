"""RWKU's scores against its evaluation, on the same words and probabilities."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nltk
import numpy as np
import scipy.stats.mstats
from official.taken import taken

from expunge.metrics.accepted import Accepted
from expunge.metrics.accuracy import Accuracy
from expunge.metrics.base import Evidence
from expunge.metrics.membership_score import MembershipScore
from expunge.metrics.ngram_entropy import NgramEntropy
from expunge.metrics.rwku_recall import RwkuRecall
from expunge.records.observation import Observations, Row
from expunge.testing.observed_worlds import generation, likelihood
from scored.cases import Chain, Compared, Source, each, furthest, value
from scored.muse import quietly
from scored.stubs import Chooses, Knows, Says

REPOSITORY = "jinzhuoran/RWKU"
COMMIT = "b8a03b3ce34fb4a96001df545a56558d75a078a3"
FOLDER = "LLaMA-Factory/src/llmtuner/eval"
PARTS = ("forget", "neighbor", "mia", "triviaqa", "bbh", "mmlu", "truthfulqa", "fluency")
FILES = (*(f"{FOLDER}/eval_{part}.py" for part in PARTS), f"{FOLDER}/inference.py")
ROWS = 60
TYPES = ("affirmative suffix", "incontext learning", "role play")


def compare(code: Path, seed: int) -> Iterator[Compared]:
    folder, source = code / FOLDER, Source(seed)
    if importlib.util.find_spec("rouge") is None:
        print("recall is left out: the package rouge is not installed")
    else:
        yield from _recall(folder, source)
    yield from _membership(folder, source)
    yield from _answers(folder, source)
    yield from _options(folder, source)
    yield from _fluency(folder, source)


def _part(folder: Path, part: str, **given: Any) -> Callable[..., Any]:
    return taken(folder / f"eval_{part}.py", f"eval_{part}", **given)


def _words(source: Source) -> str:
    """A text with something in it that is no full stop: the package rouge refuses others."""
    while not (found := source.text(others=True, empty=False)).strip(" ."):
        pass
    return found


def _recall(folder: Path, source: Source) -> Iterator[Compared]:
    from rouge import Rouge

    def levels(numbers: tuple[int, ...], part: str, breaks: bool) -> tuple[list[Row], list[float], list[float]]:
        """Our rows, their recall of every row, and their means."""
        rows: list[Row] = []
        for number in numbers:
            for i in range(ROWS):
                answer = _words(source)
                text = source.near(answer, breaks=breaks, others=True)
                rows.append(generation(f"{number}/{i}", answer, text if text.strip(" .\n") else "",
                                       group=f"level_{number}"))
        asked = [{"query": "Q", "answer": row["reference"], "level": row["id"][0], "type": TYPES[i % 3],
                  "subject": "Ann"} for i, row in enumerate(rows)]

        def run(texts: list[str]) -> list[float]:
            function = _part(folder, part, Rouge=Rouge, generate_completions=lambda **_: texts)
            by_level = [[one for one in asked if one["level"] == str(number)] for number in numbers]
            return list(quietly(function, Says([]), Says([]), *by_level))

        means = run([row["text"] for row in rows])
        said = [one["prediction"] for one in asked]  # type: ignore[index]
        alone = [Rouge().get_scores(hyps=[text], refs=[row["reference"]])[0]["rouge-l"]["r"]
                 for text, row in zip(said, rows, strict=True)]
        return rows, alone, means

    for part, split, numbers in (("forget", "forget", (1, 2, 3)), ("neighbor", "neighbour", (1, 2))):
        rows, alone, means = levels(numbers, part, breaks=False)
        evidence = Evidence(Observations({("generation", split): rows}))  # type: ignore[dict-item]
        name = f"eval_{part}"
        yield Compared(f"{split}.rwku_recall", name, "each row; several sentences, other scripts, empty answers",
                       len(rows), furthest(each(RwkuRecall(), evidence, split), alone))  # type: ignore[arg-type]
        for number, mean in zip(numbers, means, strict=True):
            yield Compared(f"{split}.rwku_recall(group=level_{number})", name, "the mean of the level", 1,
                           abs(value(RwkuRecall(group=f"level_{number}"), evidence, split) - mean))  # type: ignore[arg-type]
    rows, alone, _ = levels((1, 2, 3), "forget", breaks=True)
    evidence = Evidence(Observations({("generation", "forget"): rows}))
    yield Compared("forget.rwku_recall(lines=all)", "eval_forget", "each row; texts with line breaks", len(rows),
                   furthest(each(RwkuRecall(lines="all"), evidence), alone))
    yield Compared("forget.rwku_recall", "eval_forget", "each row; texts with line breaks", len(rows),
                   furthest(each(RwkuRecall(), evidence), alone),
                   "ours ends at the first line break of the text, RWKU's at the token of one")


def _membership(folder: Path, source: Source) -> Iterator[Compared]:
    chain = Chain(source)
    texts = [source.text(12, others=True, empty=False) + "....." for _ in range(ROWS)]
    evidence = Evidence(Observations({("likelihood", "forget"): [
        chain.row(f"t{i}", text) for i, text in enumerate(texts)]}))
    model = Knows(chain)
    found: dict[str, list[float]] = {}
    function = _part(folder, "mia", tqdm=lambda rows, **_: rows, json=SimpleNamespace(
        dump=lambda made, *_, **__: found.update(made["results"])))
    loss, zlib, likeliest = quietly(function, model, model, [{"text": text} for text in texts], "/dev/null")
    for name, key, mean in (("loss", "loss", loss), ("zlib", "zlib", zlib), ("min_k", "mink_0.2", None),
                            ("min_k_pp", "mink++_0.2", likeliest)):
        score = MembershipScore(score=name)
        apart = furthest(each(score, evidence), [-one for one in found[key]])
        yield Compared(score.label("forget"), f"eval_mia, minus {key}", "each text, and the mean where it is given",
                       len(texts), max(apart, abs(value(score, evidence) + mean) if mean is not None else 0.0))


def _answers(folder: Path, source: Source) -> Iterator[Compared]:
    """Of TriviaQA, where several answers are right, and of BBH, where one is."""
    rows, asked = [], []
    for i in range(ROWS):
        right = [source.text(4, others=True) for _ in range(int(source.random.integers(1, 4)))]
        first = right[0] or "Ann"
        text = source.near(right[-1], others=True)
        rows.append({**generation(f"t{i}", first, text), "aliases": right[1:]})
        asked.append({"question": "Q", "answers": [first, *right[1:]], "text": text})
    evidence = Evidence(Observations({("generation", "utility"): rows}))
    read = [i for i, row in enumerate(rows) if row["short"].strip(" .,!?()\"'")]
    function = _part(folder, "triviaqa", generate_completions=lambda **_: [row["text"] for row in rows])
    said = Says([])
    exact, f1 = quietly(function, said, said, asked)
    single = [quietly(_part(folder, "triviaqa", generate_completions=lambda i=i, **_: [rows[i]["text"]]), said, said,
                      [asked[i]]) for i in read]
    for measure, at in (("f1", 1), ("exact", 0)):
        score = Accepted(measure=measure)
        apart = furthest(each(score, evidence, "utility"), [one[at] for one in single])
        whole = abs(value(score, evidence, "utility") - (exact, f1)[at]) if len(read) == len(rows) else 0.0
        yield Compared(f"utility.accepted(measure={measure})", f"eval_triviaqa, {['EM', 'F1'][at]}",
                       "each row, articles and marks, one to three right answers", len(read), max(apart, whole))
    answers = ["(B)", "(A)", "7", "42", "Yes", "No", "valid", "True", "-20", "a b"]
    reasoned = []
    for i in range(ROWS):
        right = answers[i % len(answers)]
        ended = str(source.random.choice([right, right.strip("()"), str(source.random.choice(answers)), "", "the"]))
        way = str(source.random.choice(["So the answer is {}. Next.", "The answer is {}.", "{}", "the answer is {}"]))
        reasoned.append(generation(f"b{i}", right, way.format(ended)))
    evidence = Evidence(Observations({("generation", "utility"): reasoned}))
    theirs = [quietly(_part(folder, "bbh", generate_completions=lambda row=row, **_: [row["text"]]), said, said,
                      [{"task": "t", "cot": "c", "question": "q", "answer": row["reference"]}]) for row in reasoned]
    published, ours = (Accepted(measure=measure, reasoned=True) for measure in ("character", "exact"))
    yield Compared("utility.accepted(measure=character, reasoned=True)", "eval_bbh", "each row", ROWS,
                   furthest(each(published, evidence, "utility"), theirs))
    yield Compared("utility.accepted(measure=exact, reasoned=True)", "eval_bbh", "each row", ROWS,
                   furthest(each(ours, evidence, "utility"), theirs),
                   "theirs takes each character of the right answer for a right answer: 'yes', '42' are never met")


def _options(folder: Path, source: Source) -> Iterator[Compared]:
    """MMLU by letters and MC1 of TruthfulQA, without ties and with them."""
    def options(id: str, logp: np.ndarray[Any, Any], right: int) -> list[Row]:
        return [likelihood(id, [float(one), -1.0], "option", end=1, index=i, correct=i == right, text=str(i))
                for i, one in enumerate(logp)]

    next_word = taken(folder / "inference.py", "get_next_word_predictions")
    for ties in (False, True):
        letters = source.random.standard_normal((ROWS, 4))
        letters = np.round(letters) if ties else letters
        right = source.random.integers(0, 4, ROWS)
        asked = [{"question": "Q", "choices": list("wxyz"), "answer": int(r), "examples": [], "task": "t"}
                 for r in right]
        model = Chooses(letters)
        mmlu = float(quietly(_part(folder, "mmlu", get_next_word_predictions=partial(next_word, disable_tqdm=True)),
                             model, model, asked))
        evidence = Evidence(Observations({("likelihood", "utility"): [
            row for i, logp in enumerate(letters) for row in options(f"m{i}", logp, int(right[i]))]}))
        what = "the mean, options that tie" if ties else "the mean"
        told = "a tie of m options counts 1/m, theirs takes the first" if ties else ""
        yield Compared("utility.accuracy(by=text)", "eval_mmlu", what, 1,
                       abs(value(Accuracy(by="text"), evidence, "utility") - mmlu), told)
        scores = -source.random.exponential(3, (ROWS, 4))
        scores = np.round(scores) if ties else scores
        completions = {i: dict(zip("wxyz", map(float, row), strict=True)) for i, row in enumerate(scores)}
        questions = [{"question": f"Q{i}", "mc1_targets": {"choices": list("wxyz"), "labels": [1, 0, 0, 0]},
                      "mc2_targets": {"choices": list("wxyz"), "labels": [1, 0, 0, 0]}} for i in range(ROWS)]
        function = _part(folder, "truthfulqa", preset_map={"qa": ""}, score_completions=lambda m, t, examples, **_: {
            one["prompt"]: completions[i] for i, one in enumerate(examples)})  # noqa: B023
        said = Says([])
        mc1, _ = quietly(function, said, said, questions)
        evidence = Evidence(Observations({("likelihood", "utility"): [
            row for i, logp in enumerate(scores) for row in options(f"t{i}", logp, 0)]}))
        told = "a tie of m options counts 1/m, in theirs it is wrong" if ties else ""
        yield Compared("utility.accuracy(by=sum)", "eval_truthfulqa, MC1", what, 1,
                       abs(value(Accuracy(by="sum"), evidence, "utility") - mc1), told)


def _fluency(folder: Path, source: Source) -> Iterator[Compared]:
    assert scipy.stats.mstats  # their file imports scipy alone
    texts = [source.text(60, breaks=True, others=True) for _ in range(ROWS)]
    evidence = Evidence(Observations({("generation", "utility"): [
        generation(f"g{i}", "", text) for i, text in enumerate(texts)]}))
    whole = SimpleNamespace(word_tokenize=partial(nltk.word_tokenize, preserve_line=True), ngrams=nltk.ngrams,
                            FreqDist=nltk.FreqDist)
    published = [taken(folder / "eval_fluency.py", "n_gram_entropy", nltk=tool) for tool in (whole, nltk)]
    yield Compared("utility.ngram_entropy", "n_gram_entropy, words of the whole text", "each text", len(texts),
                   furthest(each(NgramEntropy(), evidence, "utility"), [published[0]([text]) for text in texts]))
    try:
        theirs = [published[1]([text]) for text in texts]
    except LookupError:
        print("sentences are left out: nltk has no data punkt_tab")
        return
    yield Compared("utility.ngram_entropy(sentences=True)", "n_gram_entropy", "each text", len(texts),
                   furthest(each(NgramEntropy(sentences=True), evidence, "utility"), theirs))
    yield Compared("utility.ngram_entropy", "n_gram_entropy", "each text, in bits", len(texts),
                   furthest(each(NgramEntropy(), evidence, "utility"), theirs),
                   "the model that finds sentences has to be downloaded")
