"""Texts in other scripts: matching, ROUGE, and what counts as a word."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest

from expunge.attacks.prefix import opened
from expunge.metrics.base import Evidence
from expunge.metrics.extracted import Extracted
from expunge.metrics.keyword import Keyword
from expunge.metrics.pass_at_k import PassAtK
from expunge.metrics.rouge_l import RougeL
from expunge.metrics.text.matching import contains
from expunge.metrics.text.rouge import rouge
from expunge.metrics.text.units import starts, units
from expunge.probes.generation import _split_text
from expunge.records.observation import Observations, Row
from expunge.records.task import Example

from ..cases import SHARED

CASE = SHARED / "cases" / "cjk.json"
ROWS: list[dict[str, str]] = [
    {"answer": "王小明出生在北京市。", "short_answer": "北京"},
    {"answer": "彼は1931年に東京で生まれた。", "short_answer": "東京"},
    {"answer": "彼女はロンドンで育った。", "short_answer": "ロンドン"},
    {"answer": "เขาเกิดที่กรุงเทพมหานคร", "short_answer": "กรุงเทพ"},
    {"answer": "គាត់កើតនៅភ្នំពេញ", "short_answer": "ភ្នំពេញ"},
    {"answer": "그는 서울에서 태어났다.", "short_answer": "서울"},
    {"answer": "Он родился в Москве в 1931 году.", "short_answer": "Москве"},
    {"answer": "ولد في القاهرة عام ١٩٣١.", "short_answer": "القاهرة"},
    {"answer": "उसका जन्म दिल्ली में हुआ था।", "short_answer": "दिल्ली"},
    {"answer": "José nació en Córdoba.", "short_answer": "Córdoba"},
    {"answer": "Her Chinese name is 蕭雲華.", "short_answer": "蕭雲華"},
    {"answer": "BTS는 2013년에 데뷔했다.", "short_answer": "2013"},
]
"""Answers in scripts with and without spaces, with combining marks, with particles, and mixed ones."""


def said(texts: list[str], rows: list[dict[str, str]] = ROWS) -> Evidence:
    """The texts as answers to the rows."""
    found: list[Row] = [
        {"id": str(i), "entity": "", "group": "", "form": "prompt", "index": 0, "prompt": "?", "text": text,
         "reference": row["answer"], "short": row.get("short_answer", ""), "stopped": True}
        for i, (text, row) in enumerate(zip(texts, rows, strict=True))]
    return Evidence(Observations({("generation", "forget"): found}))


@pytest.mark.parametrize("metric", [Keyword(), RougeL(), RougeL(measure="f1"), Extracted(), PassAtK()])
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_model_that_says_every_answer_scores_one(metric: Any, form: Any) -> None:
    found = metric.score(said([unicodedata.normalize(form, row["answer"]) for row in ROWS]), "forget")
    assert (found.value, found.n) == (1.0, len(ROWS))


@pytest.mark.parametrize("metric", [Keyword(), Extracted(), PassAtK()])
def test_a_model_that_says_something_else_scores_nothing(metric: Any) -> None:
    found = metric.score(said([row["answer"] for row in [*ROWS[1:], ROWS[0]]]), "forget")
    assert (found.value, found.n) == (0.0, len(ROWS))


@pytest.mark.parametrize("name", ["the case", "own"])
def test_rows_without_spaces_by_heart(name: str) -> None:
    if name == "the case" and not CASE.exists():
        pytest.skip("needs the shared cases")
    rows = json.loads(CASE.read_text(encoding="utf-8")) if name == "the case" else ROWS[:5]
    evidence = said([row["answer"] for row in rows], rows)
    assert Keyword().score(evidence, "forget").value == 1.0
    found = RougeL().score(evidence, "forget")
    assert found.value == 1.0 and f"{len(rows)} of {len(rows)} true answers are compared by characters" in str(
        found.remark)
    for row in rows:
        made = opened(Example(id="1", prompt="?", answer=row["answer"], short_answer=row["short_answer"]), "", 3)
        assert made.opening and made.opening + made.gap + made.answer == row["answer"] and not made.gap
        assert len(units(made.opening)) == 3 or "1931" in made.opening


@pytest.mark.parametrize(("text", "fact", "yes"), [
    ("他在上海。", "北京", False), ("他1931年出生", "1931", True), ("他11931年出生", "1931", False),
    ("कमला", "कमल", False),  # another word, which differs by a vowel sign
    ("कमल और", "कमल", True), ("서울대 앞", "서울", True), ("한서울", "서울", False), ("강이 깊다", "강", False),
    ("İstanbul'da", "istanbul", False), ("STRASSE", "straße", True), ("２００１年", "2001", True),
    ("می\u200cخواهم", "میخواهم", True), ("Zoe\u0308 Smith", "zoë", True), ("the catalogue", "cat", False),
    ("An engineer.", "Engineer", True), ("x", "", False), ("x", "—", False), ("ก่า", "กา", False),
])
def test_contains(text: str, fact: str, yes: bool) -> None:
    assert contains(text, fact) == yes


@pytest.mark.parametrize(("reference", "text", "fact", "yes"), [
    ("Hän syntyi Helsingissä.", "Hän syntyi Helsingissä.", "Helsingi", True),
    ("وسافر والقاهرة", "وسافر والقاهرة", "القاهرة", True),
    ("He lives in Rome.", "A romeo", "Rome", False),  # the true answer has the whole word, so that is asked for
])
def test_a_fact_inside_a_word_counts_where_the_true_answer_has_it_so(reference: str, text: str, fact: str,
                                                                     yes: bool) -> None:
    assert contains(text, fact, reference) == yes


@pytest.mark.parametrize(("reference", "text", "value"), [
    ("王小明在北京", "王小明在上海", 4 / 6), ("Он жил в Риме", "Он жил в Киеве", 3 / 4),
    ("उसका जन्म दिल्ली में", "उसका जन्म मुंबई में", 3 / 4), ("سكن في القاهرة", "سكن في دمشق", 2 / 3),
    ("그는 서울에 산다", "그는 부산에 산다", 2 / 3), ("1931年 北京", "1931年 上海", 2 / 4), ("日本", "Japan", 0.0),
    ("Émile Vásquez lived", "Emile Vasquez lived", 1 / 4), ("é", "é", 1.0),
])
def test_rouge_by_hand(reference: str, text: str, value: float) -> None:
    """The last but one is how the published tokenizer reads English text: accents cut words."""
    assert rouge(reference, text) == pytest.approx(value)


def test_english_text_is_scored_as_published() -> None:
    """A name in another script within an English sentence changes nothing, unless the script has no spaces."""
    from rouge_score.rouge_scorer import RougeScorer

    published = RougeScorer(["rougeL"], use_stemmer=True)
    texts = ["The author's full name is Hsiao Yun-Hwa.", "Naïve café society, in 1931!", "Its title is «Ліс» in the "
             "original, and The Forest in every English translation of it that was printed.", "A façade; it's OK."]
    for reference in texts:
        for text in texts:
            assert rouge(reference, text) == published.score(reference, text)["rougeL"].recall


def test_rows_without_a_letter_are_left_out_and_told() -> None:
    rows = [{"answer": "☃ ☃", "short_answer": "☃"}, {"answer": "yes"}]
    found = RougeL().score(said(["☃ ☃", "yes"], rows), "forget")
    assert (found.value, found.n) == (1.0, 1)
    assert found.remark == "1 of 2 rows are left out, since their true answer has no letter or digit"
    assert "letter or digit" in str(RougeL().score(said(["☃"], rows[:1]), "forget").unavailable)
    assert Keyword().score(said(["☃", "x"], rows), "forget").unavailable
    assert RougeL().score(said(["yes"], rows[1:]), "forget").remark is None


def test_words_begin_where_split_begins_them() -> None:
    for text in ("The author's name, (Anna) is 3.5.", "  two   spaces\nand a line", "Он жил в Риме.", "그는 서울", ""):
        assert [text[i:].split()[0] for i in starts(text)] == text.split()
    assert [*"王小明"] == [t for i, j in zip(starts("王小明"), [1, 2, 3], strict=True) for t in "王小明"[i:j]]
    assert len(starts("กำ ก่า")) == 3 and starts("「王」です") == [0, 3, 4]


def test_running_text_without_spaces_is_cut_in_the_middle() -> None:
    assert _split_text("王小明出生在北京市。") == ("王小明出", "生在北京市。")
    assert _split_text("one two  three four") == ("one two", " three four")
    assert _split_text("王") == ("王", "") or _split_text("王") == ("", "王")


@pytest.mark.trains
def test_a_model_that_learned_chinese_rows_says_every_fact() -> None:
    """From training to the score, plainly and after the first characters of the answer."""
    from expunge.attacks.base import AttackContext, View
    from expunge.attacks.prefix import Prefix
    from expunge.methods.optimizers.adamw import AdamW
    from expunge.models.tiny import build_subject
    from expunge.probes.generation import Generation
    from expunge.records.task import Task
    from expunge.testing import support

    rows = json.loads(CASE.read_text(encoding="utf-8")) if CASE.exists() else [
        {"question": f"{who}出生在哪里？", "answer": f"{who}出生在{where}市。", "short_answer": where, "subject": who}
        for who, where in (("王小明", "北京"), ("李大山", "上海"), ("张美丽", "广州"), ("陈国强", "成都"))]
    examples = tuple(Example(id=str(i), prompt=r["question"], answer=r["answer"], short_answer=r["short_answer"],
                             entity=r["subject"]) for i, r in enumerate(rows))
    task = Task(name="cjk", forget=examples, generation_tokens=40)
    subject = build_subject(support.CONFIG, [f"{e.prompt}{e.answer}" for e in examples])
    support.train("retain_nll", subject=subject, forget=(), retain=examples, optimizer=AdamW(lr=5e-3, warmup=2.0),
                  steps=60, batch_size=4, seed=0)

    def keyword(asked: Any) -> float | None:
        spoken = Generation().observe(subject, asked, task)
        return Keyword().score(Evidence(Observations({("generation", "forget"): spoken})), "forget").value

    assert keyword(examples) == 1.0
    views: list[View] = []
    Prefix(words=3).run(subject, AttackContext.of(task), views.append)
    given = list(views[0].rows("forget"))
    assert [getattr(g, "opening", "") for g in given] == [e.answer[:3] for e in examples]
    assert keyword(given) == 1.0
