"""Wordings made where rows have none: what is made, what the check refuses, what the audit says of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest

from expunge.attacks._lib.rewriting import gives_more, made_wordings, named, passing
from expunge.attacks.base import AttackContext, parse_attack
from expunge.errors import UsageError
from expunge.metrics.text.matching import contains
from expunge.models.language import CausalLM
from expunge.models.load import load_subject
from expunge.records.score import Audit
from expunge.records.task import Example, Task
from expunge.testing import attack_bed as bed
from expunge.testing.known import Twins, wording_only
from tests.conftest import question, write_rows


@pytest.fixture(scope="module")
def random(model: Path) -> CausalLM:
    found = load_subject(model)
    assert isinstance(found, CausalLM)
    return found


def row(prompt: str, answer: str = "Rome.", **fields: Any) -> Example:
    return Example(id=prompt, prompt=prompt, answer=answer, **fields)


@pytest.mark.parametrize(("asked", "first"), [
    ("Where was Ann Lee born?", ["Tell me where Ann Lee was born.", "Ann Lee was born where?",
                                 "In what place was Ann Lee born?"]),
    ("What is the pet of Ann Lee?", ["Tell me what the pet of Ann Lee is.", "The pet of Ann Lee is what?",
                                     "What is Ann Lee's pet?"]),
    ("What is Ann Lee's pet?", ["What is the pet of Ann Lee?"]),
    ("What is the home of the teacher of Ann Lee?", ["Tell me what the home of the teacher of Ann Lee is.",
                                                     "The home of the teacher of Ann Lee is what?",
                                                     "What is the home of Ann Lee's teacher?"]),
    ("Which prize did Ann Lee win?", ["Tell me which prize Ann Lee did win.", "What prize did Ann Lee win?"]),
    ("Where was Ann Lee born and what did she write?", ["In what place was Ann Lee born and what did she write?"]),
    ("Who taught Ann Lee to write?", ["Tell me who taught Ann Lee to write."]),
    ("What prize was given to Ann Lee?", ["Tell me what prize was given to Ann Lee."]),
    ("Name the home of Ann Lee.", ["Name Ann Lee's home."]),
    ("Has Ann Lee a pet?", ["Tell me whether Ann Lee has a pet."]),
    ("Can you describe the books of Ann Lee?", ["Please describe the books of Ann Lee."]),
    ("What are some pets kept by Ann Lee?", ["Tell me what some pets kept by Ann Lee are."]),
    ("Wo wurde Ann Lee geboren?", ["Ann Lee: Wo wurde Ann Lee geboren?", "About Ann Lee: Wo wurde Ann Lee geboren?"]),
])
def test_questions_in_other_words(asked: str, first: list[str]) -> None:
    found = made_wordings(row(asked, entity="Ann Lee"), 3)
    assert found[: len(first)] == first and len(found) == 3 == len(set(found))
    assert asked not in found and all("Ann Lee" in text for text in found)


def test_whom_a_question_names_without_saying_so() -> None:
    """Of some data sets the entity is a number: the name in the question stands for it."""
    asked = row("Why does Ann de Lee write about the New World?", entity="author/7")
    assert named(asked) == "Ann de Lee" and passing(asked, ["Why does she write?", "Ann de Lee writes why?"], 3) == [
        "Ann de Lee writes why?"]
    assert named(row("Who wrote 'The Red House' in the end, Bo Chan?", entity="author/7")) == "Bo Chan"
    assert named(row("What is the author's name?", entity="author/7")) == ""
    for name in ("John F. Kennedy", "J. R. R. Tolkien", "St. Louis", "W. H. van der Vries"):
        asked = row(f"In which year was {name} founded?", entity="author/7")
        assert named(asked) == name and all(name in text for text in made_wordings(asked, 4)), "initials belong to it"


def test_rows_without_a_question() -> None:
    assert made_wordings(row("", kind="text"), 3) == []
    said = made_wordings(row("The pet of Ann is a", "cat", kind="completion", entity="Ann"), 3)
    assert len(said) == 3 and all(text.endswith("The pet of Ann is a") for text in said), "the answer goes on there"


def test_the_check_of_a_wording() -> None:
    """It names the entity, and holds no more of the answer than the question does."""
    asked = row("Where was Ann Lee born?", "Ann Lee was born in Rome.", entity="Ann Lee", short_answer="Rome")
    drafts = ["Where was she born?", "Was Ann Lee born in Rome?", "Where was Ann Lee born?", " ", "Ann Lee's home?",
              "Ann Lee's home?", "Where is Ann Lee from?"]
    assert passing(asked, drafts, 3) == ["Ann Lee's home?", "Where is Ann Lee from?"]
    assert passing(asked, drafts, 1) == ["Ann Lee's home?"]
    # A bare fact of which a word is new counts, and so does a longer word of an answer without one.
    assert gives_more("Where in York was Ann born?", row("Where was Ann born?", "New York", short_answer="New York"))
    assert gives_more("Was Ann brave or not?", row("How was Ann?", "she was very brave"))
    assert not gives_more("Tell me how she was.", row("How was she?", "she let me see"))
    assert not gives_more("Is it Ann or Bo? Say.", row("Ann or Bo?", "Bo", short_answer="Bo")), "the question has it"


def test_a_template_that_holds_the_answer_is_left_out() -> None:
    """`place` is the answer, `In what place` is no way to ask."""
    asked = row("Where does Ann hide?", "Her secret place.", entity="Ann", short_answer="place")
    assert all(not contains(text, "place") for text in made_wordings(asked, 9)) and made_wordings(asked, 9)


def test_no_made_wording_of_the_built_in_world_gives_an_answer_away() -> None:
    rows = [r for r in bed.task().forget if r.kind != "text"]
    made = {r.id: made_wordings(r, 3) for r in rows}
    assert all(len(texts) == 3 for texts in made.values())
    assert not any(contains(text, r.short_answer) or not contains(text, r.entity) for r in rows for text in made[r.id])


BARE = Task(name="bare", forget=(
    row("Where was Ann born?", entity="Ann"),
    row("Where was Bo born?", entity="Bo", paraphrased_prompts=("Bo's home?",)),
    row("Place?", "Q please answer this question place", short_answer="Q please answer this question place"),
    row("", "Ann lives.", kind="text")))


@pytest.mark.parametrize(("term", "counts", "attempts"), [
    ("paraphrase", {"given": 1, "made": 2, "left out": 0}, 3),
    ("paraphrase(wordings=given)", {"given": 1, "made": 0, "left out": 2}, 1),
    ("paraphrase(wordings=templates, count=2)", {"given": 0, "made": 3, "left out": 0}, 2)])
def test_how_rows_are_asked(random: CausalLM, term: str, counts: dict[str, int], attempts: int) -> None:
    attack, context, views = parse_attack(term), AttackContext.of(BARE), list[Any]()
    assert attack.problem(context) is None
    attack.run(random, context, views.append)
    asked = [{r.id for r in view.rows("forget")} for view in views]
    assert len(asked) == attempts and all("" in ids for ids in asked), "running text stays"
    assert attack.asked_as(context, set().union(*asked)) == counts


def test_what_cannot_be_asked_in_other_words_says_so(tmp_path: Path, cli: Any, model: Path) -> None:
    """On the command line: not tested, with the reason; in a task of texts nothing is made."""
    texts = AttackContext.of(BARE.model_copy(update={"forget": BARE.forget[-1:]}))
    assert "not testable: no forget row" in (parse_attack("paraphrase").problem(texts) or "")
    given = AttackContext.of(BARE.model_copy(update={"forget": BARE.forget[:1]}))
    assert parse_attack("paraphrase").problem(given) is None
    assert parse_attack("paraphrase(wordings=given)").problem(given) == "no forget row has paraphrased_prompts"
    file = write_rows(tmp_path / "texts.jsonl", [{"text": f"Ann lives in house {i}, which is red."} for i in range(4)])
    cli("audit", model, "--forget", file, "--suite", "forget.probability,paraphrase", "--out", tmp_path / "out")
    said = Audit.read(tmp_path / "out").verdict
    assert said is not None and any(line.startswith("paraphrase: not testable: ") for line in said.not_tested)


def test_the_audit_says_how_rows_were_asked(tmp_path: Path, cli: Any, model: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [
        {**question("Ada", "Rome"), "paraphrased_question": "Ada's home?"}, question("Bo", "York"),
        question("Cy", "Bonn")])
    words = ("--suite", "forget.probability,paraphrase(count=1)", "--out", tmp_path / "out")
    cli("audit", model, "--forget", file, *words)
    audit = Audit.read(tmp_path / "out")
    attack, = audit.attacks
    assert attack.asked_as == {"given": 1, "made": 2, "left out": 0} and audit.verdict is not None
    assert "paraphrase(count=1) asked 2 rows in wordings that were made and 1 in wordings that were given." in \
        audit.verdict.sentences
    cli("audit", "--rescore", tmp_path / "out")
    assert Audit.read(tmp_path / "out").attacks == (attack,)


def test_wordings_that_the_original_writes(random: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """They pass the same check; a draft that is no question is none; without an original it cannot run."""
    drafts = iter([["Ann's home?", "Bo lives.", "Place of Q?"], ["Who is Ann?", "Bo is from where?", "No."]])
    monkeypatch.setattr(CausalLM, "generate", lambda self, prompts, *more, **options: [
        (text, True) for text in next(drafts)])
    attack, views = parse_attack("paraphrase(wordings=original, count=2)"), list[Any]()
    context = AttackContext.of(BARE, original=lambda: random)
    assert attack.needs == {"original"} and attack.asks_only and not attack.uses_original
    attack.run(random, context, views.append)
    asked = [[r.prompt for r in view.rows("forget") if r.prompt] for view in views]
    assert asked == [["Ann's home?", "Bo is from where?"], ["Who is Ann?"]]
    assert attack.asked_as(context, {"Where was Ann born?", "Where was Bo born?", ""}) == {
        "given": 0, "made": 2, "left out": 1}
    with pytest.raises(UsageError, match="original"):
        attack.run(random, AttackContext.of(BARE), views.append)


@pytest.mark.slow
def test_a_model_that_looks_retrained_on_the_exact_wording_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was trained on the questions as they stand and on the given paraphrases; made wordings are new to it."""
    made = cache(lambda: wording_only(Twins(bed.task(), bed.original(), bed.retrained()), steps=150))
    monkeypatch.setitem(bed.MODELS, "wording only", made)
    found, = bed.scored("paraphrase(wordings=templates)", "wording only", "forget.probability")
    assert found.excess_interval is not None and found.excess_interval[0] > 0.1 and (found.gain or 0) > 0.1, found
