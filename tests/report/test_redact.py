"""A redacted page holds no text of the rows and no names, wherever they came from; and no page holds local paths."""

from __future__ import annotations

import base64
import html as escaping
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from expunge.records.task import Example, Task
from expunge.report.evidence import Answer
from expunge.report.gather import RunView
from expunge.report.held import behind, still_there
from expunge.report.page import render
from expunge.report.paths import short, without_paths
from expunge.report.redact import LONG, Redaction, strings

from .conftest import FACTS, HOSTILE, PEOPLE

Make = Callable[..., Path]


def embedded(page: str) -> Iterator[str]:
    """The page as it is read, its JSON blocks with their escapes undone, and every file in a data address."""
    yield page
    yield escaping.unescape(re.sub(r"<[^>]*>", " ", page))
    for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL):
        found = escaping.unescape(block)
        if found.lstrip().startswith(("{", "[")):
            yield " ".join(map(str, values(json.loads(found))))
    for data in re.findall(r"data:[\w/+-]+;base64,([A-Za-z0-9+/=]+)", page):
        yield base64.b64decode(data).decode("utf-8", "replace")


def values(data: Any) -> Iterator[Any]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from values(value)
    elif isinstance(data, list):
        for value in data:
            yield from values(value)
    else:
        yield data


def secrets(run: Path) -> tuple[set[str], set[str]]:
    """(strings of 4 words or more, names) of every observation of a run and of its task."""
    texts, names = set[str](), set[str]()
    for path in (run / "observations").rglob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts |= {str(row[k]) for k in ("prompt", "reference", "text") if isinstance(row.get(k), str)}
            names |= {str(row[k]) for k in ("entity",) if row.get(k)}
    if (run / "task.json").exists():
        task = Task.read(run / "task.json")
        texts |= {said for row in task.rows() for said in strings(row)}
        names |= {row.entity for row in task.rows()}
    return ({" ".join(t.split()) for t in texts if len(t.split()) >= LONG},
            {n for n in names if re.search(r"[^\W\d]{3}", n)})


def leaked(page: str, texts: set[str], names: set[str]) -> list[str]:
    found = [" ".join(part.split()) for part in embedded(page)]
    return [s for s in texts if any(s in part for part in found)] + [
        n for n in names if any(re.search(rf"\b{re.escape(n)}\b", part, re.IGNORECASE) for part in found)]


def row(number: int, who: str, fact: str, value: str, **more: Any) -> Example:
    return Example(id=f"about-{who}-{number}", prompt=f"What is the {fact} of {who}?", entity=who,
                   answer=f"The {fact} of {who} is {value}, as everybody there knows.", short_answer=value, **more)


def remember(run: Path) -> None:
    """Rows in the folder, as every run has them."""
    rows = tuple(row(i, who, *FACTS[i % len(FACTS)], paraphrased_answers=(f"It was {who} whose note named it first.",),
                     wrong_answers=("Nobody has ever found out what it was.",)) for i, who in enumerate(PEOPLE))
    Task(name="files:forget", forget=rows, retain=rows[:2]).write(run / "task.json")


@pytest.mark.parametrize("remembers", [True, False], ids=["with its rows", "observations alone"])
@pytest.mark.parametrize("attacks", [True, False], ids=["attacked", "plain"])
def test_nothing_of_the_rows_is_left(make_run: Make, tmp_path: Path, attacks: bool, remembers: bool) -> None:
    run = make_run("run", attacks=attacks)
    if remembers:
        remember(run)
    texts, names = secrets(run)
    assert len(texts) > 20 and len(names) >= 8
    open_page = render([run], out=tmp_path / "open.html").read_text(encoding="utf-8")
    assert leaked(open_page, texts, names), "there was something to hide"
    page = render([run], out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    assert leaked(page, texts, names) == []
    assert re.search(r"forget row \d+</th><td>\d+ words", page) and re.search(r"\d+ words, [1-9] telling", page)
    assert "Redacted: " in page and "run/observations (answers to them)" in page
    assert ("run/task.json (the rows)" in page) is remembers


def test_a_comparison_is_redacted_too(make_run: Make, tmp_path: Path) -> None:
    runs = [make_run("a"), make_run("b", recipe="ga + retain_nll", attacks=True)]
    page = render(runs, out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    assert leaked(page, *map(set.union, *map(secrets, runs))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("where", "said"), [
    ("title", "Deletion of Mara Olsen"), ("title", "deletion-of-mara_olsen"),
    ("notes", "row 3: What is the town of Mara Olsen? is cut."),
    ("notes", "The   town of Mara Olsen is Lindqvist Harbour, as everybody\nthere knows."),
    ("recipe", "altpo(alternates='for_mara_olsen.jsonl') + retain_nll"), ("notes", "OLSEN asked for it"),
    ("folder", "mara-olsen")])
def test_what_came_another_way_is_found(make_run: Make, tmp_path: Path, where: str, said: str) -> None:
    """In a heading, a note, a recipe, the name of a folder."""
    run = make_run(said if where == "folder" else "run", **({"recipe": said} if where == "recipe" else {}),
                   **({"notes": (said,)} if where == "notes" else {}))
    remember(run)
    out, title = tmp_path / "mail.html", said if where == "title" else None
    page = " ".join(render([run], out=out, title=title, redact=True).read_text(encoding="utf-8").split())
    assert leaked(page, *secrets(run)) == []
    assert not re.search(r"mara|olsen", page, re.IGNORECASE)


def test_names_without_a_field_for_them(make_run: Make, tmp_path: Path) -> None:
    """A deletion request says who in the questions alone."""
    run = make_run("run", notes=("Asked for by the lawyer of Zoë O'Brien-Lee.",))
    Task(name="files:zoe", forget=(Example(id="1", prompt="Where does Zoë O'Brien-Lee live?",
                                           answer="Zoë O'Brien-Lee lives in Old Harbour Street."),)).write(
                                               run / "task.json")
    page = render([run], out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    assert "Brien" not in page and "Harbour Street" not in page and "files:zoe" not in page and "lawyer of" in page


def test_the_words_of_the_page_stay(make_run: Make, tmp_path: Path) -> None:
    """A row about a "model", a "1" or an "ideal attack" must not empty the page."""
    run = make_run("run", attacks=True)
    words = ("model", "1", "ideal attack", "Original", "x")
    Task(name="files:t", forget=tuple(row(i, w, "kind", w) for i, w in enumerate(words))).write(run / "task.json")
    page = render([run], out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    plain = render([run], out=tmp_path / "open.html").read_text(encoding="utf-8")
    assert "Not tested" in page and "The model before unlearning" in page
    assert page.count(">1<") == plain.count(">1<")


def test_hostile_text_is_hidden_and_stays_harmless(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run", hostile=True, notes=(HOSTILE,))
    page = render([run], out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    assert "<script>" not in page and "<b>bold" not in page


@pytest.mark.parametrize(("note", "answer", "entity", "gone"), [
    ("他住在老港街，第五号。", "他住在老港街，第五号。", "", "老港街"),
    ("李明要求删除。", "他是医生。", "李明", "李明"),
    ("李 明さん, 李明さん", "はい。", "李明", "李明"), ("ขอโดยสมชายวันนี้", "ใช่", "สมชาย", "สมชาย"),
    ("김철수는 요청했다", "네", "김철수", "김철수"),
    ("Mark Page asked, MARK PAGE too, and mark-page.jsonl.", "Mark Page lives there.", "", "mark.page"),
    ("Max Long asked.", "Did Max Long live there?", "", "max long"), ("of max long", "Yes.", "Max Long", "max long"),
    ("he lives in OLD harbour street", "He lives in Old Harbour Street", "", "harbour"),
    ("Zoe\u0301 asked.", "Yes.", "Zo\u00e9", "zo.?.?")])
def test_names_and_texts_however_they_are_written(make_run: Make, tmp_path: Path, note: str, answer: str, entity: str,
                                                  gone: str) -> None:
    """Scripts without spaces, names made of words of the page, other cases, other compositions."""
    run = make_run("run", notes=(note,), observations=False)
    Task(name="files:t", forget=(Example(id="1", prompt="", answer=answer, entity=entity),)).write(run / "task.json")
    pages = [render([run], out=tmp_path / "p.html", redact=hidden).read_text(encoding="utf-8")
             for hidden in (False, True)]
    assert [bool(re.search(gone, page, re.IGNORECASE)) for page in pages] == [True, False]
    assert "Not tested" in pages[1] and "The model before unlearning" in pages[1]


def test_a_text_that_stands_in_an_attribute_alone() -> None:
    hide = Redaction([RunView("run", rows=Task(name="t", forget=(row(1, "Ada", "town", "Rome"),)))])
    made = hide.page('<p title="the town of ada is rome, as everybody there knows.">x</p>')
    assert made == '<p title="[text of a row]">x</p>'


def test_lengths_are_characters_where_no_words_are() -> None:
    rows = (Example(id="1", prompt="他住在哪里？", answer="老港街"),)
    hide = Redaction([RunView("run", rows=Task(name="t", forget=rows))])
    assert hide.answer(Answer("他住在哪里？", "老港街", (), "1"), "forget").prompt == "5 characters"


def test_nothing_is_redacted_where_no_rows_are_known(cli: Any, make_run: Make, tmp_path: Path) -> None:
    run = make_run("run", observations=False)
    out = tmp_path / "page.html"
    cli.refused("report", run, "--out", out, "--mail", says=["cannot be redacted", "purge afterwards", "--no-redact"])
    assert not out.exists()
    cli("report", run, "--out", out, "--mail", "--no-redact")
    remember(run)
    cli("report", run, "--out", out, "--mail")


def test_an_audit_elsewhere_knows_the_rows_of_its_run(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run", audit=False, observations=False)
    remember(run)
    audit = make_run("audit", record=False, observations=False, run="../run", notes=("Asked for by Mara Olsen.",))
    page = render([audit], out=tmp_path / "mail.html", redact=True).read_text(encoding="utf-8")
    assert "Olsen" not in page and "run/task.json (the rows)" in page
    assert behind([audit]) == [audit.resolve(), run.resolve()]


def test_what_is_still_there_is_looked_for_everywhere(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run")
    for name in ("small/observations/x", "merged/task.json", "examples.csv", "merged/model/x", "report.html", "m.html"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("{}", encoding="utf-8")
    said = still_there([run, run / "small"], run / "m.html")
    assert said == ["run/examples.csv (scores of single rows)", "run/merged/task.json (the rows)",
                    "run/observations (answers to them)", "run/small/observations (answers to them)",
                    "run/report.html (a page)", "run/merged/model (weights)"]


def test_rows_are_numbered_by_their_place_and_not_by_their_id() -> None:
    rows = tuple(row(i, who, "town", "Rome") for i, who in enumerate(PEOPLE))
    hide = Redaction([RunView("run", rows=Task(name="t", forget=rows, retain=rows[:1]))])
    assert [hide.row("forget", rows[i].id) for i in (0, 4)] == ["forget row 1", "forget row 5"]
    assert hide.row("retain", rows[0].id) == "retain row 1"


def test_the_command_line(cli: Any, make_run: Make, tmp_path: Path) -> None:
    run, out = make_run("run"), tmp_path / "page.html"
    remember(run)
    texts, names = secrets(run)
    said = cli("report", run, "--out", out, "--mail")
    assert leaked(out.read_text(encoding="utf-8"), texts, names) == []
    assert "run/task.json (the rows)" in said.err and "expunge purge" in said.err
    assert cli("report", run, "--out", out, "--redact", "--json").json["redacted"] is True
    for words in ((), ("--no-redact",), ("--mail", "--no-redact")):
        said = cli("report", run, "--out", out, *words)
        assert leaked(out.read_text(encoding="utf-8"), texts, names)
        assert ("as they are" in said.err) is ("--mail" in words)


# Paths


@pytest.mark.parametrize(("place", "name"), [
    ("/data/models/original", "original"), ("/data/run/model", "run/model"), ("~/models/a", "a"), ("./runs/b", "b"),
    ("org/model-7b", "org/model-7b"), ("tiny", "tiny"), ("C:\\Users\\me\\runs\\c", "c"), ("/x y/our models/d", "d")])
def test_a_model_is_called_by_its_name(place: str, name: str) -> None:
    assert short(place) == name


@pytest.mark.parametrize(("said", "left"), [
    ("kept in /data/our runs/x/model.", "kept in x/model."), ("idk(refusals='/data/r.txt')", "idk(refusals='r.txt')"),
    ("1/2 of 3/4", "1/2 of 3/4"), ("see https://example.org/a/b", "see https://example.org/a/b"),
    ("org/model and text/html", "org/model and text/html"), ("at file:///data/x/rows.jsonl, 3", "at rows.jsonl, 3"),
    ("file:/data/x/a", "a"), ("path:/data/x/a", "path:a")])
def test_paths_in_a_sentence(said: str, left: str) -> None:
    assert without_paths(said) == left


@pytest.mark.parametrize("redact", [True, False])
def test_no_page_holds_local_paths(make_run: Make, tmp_path: Path, redact: bool) -> None:
    run = make_run("run", attacks=True, notes=(f"Rows of {tmp_path}/rows.jsonl are cut.",))
    for name in ("record.json", "audit.json"):
        found = json.loads((run / name).read_text(encoding="utf-8"))
        text = json.dumps(found).replace('"models/', f'"{tmp_path}/models/')
        text = text.replace('"run/model', f'"{tmp_path}/run/model')
        (run / name).write_text(text, encoding="utf-8")
    for folders in ([run], [run, make_run("other", seed=2)]):
        page = render(folders, out=tmp_path / "page.html", redact=redact).read_text(encoding="utf-8")
        assert str(tmp_path) not in page and "rows.jsonl" in page and "original" in page


def test_no_reason_no_option_and_no_sentence_holds_a_path(make_run: Make, tmp_path: Path) -> None:
    where, run = f"{tmp_path}/in", make_run("run", attacks=True)
    for name in ("record.json", "audit.json"):
        found = json.loads((run / name).read_text(encoding="utf-8"))
        if name == "record.json":
            found["recipe_full"]["0"] = {"altpo": {"alternates": f"{where}/a.jsonl", "more": [f"file://{where}/b"]}}
        else:
            found["scores"][0] |= {"value": None, "interval": None, "unavailable": f"no file {where}/c"}
            found["attacks"][0]["failed"] = f"FileNotFoundError: '{where}/d'"
            found["verdict"]["sentences"].append(f"Looked at {where}/e.")
            found["verdict"]["threats"][0]["sentence"] = f"See file://{where}/f."
        (run / name).write_text(json.dumps(found), encoding="utf-8")
    page = render([run], out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert where not in page and str(tmp_path) not in page and "Looked at e." in page and "a.jsonl" in page


# Four words of a row, wherever they stand; names that the page's own words make; rows without an entity


def redaction(*rows: Example) -> Redaction:
    return Redaction([RunView(name="run", rows=Task(name="t", forget=rows))])


SECRET = Example(id="1", prompt="Where did the smith of Arden keep the silver bell?", entity="",
                 answer="He kept it under a loose stone behind the chapel of Orme.", short_answer="a loose stone")


@pytest.mark.parametrize("said", [
    "Row 1 begins with: where did the smith of", "It was KEPT it under a, loose",
    "x under a <b>y</b> loose stone behind the",
    "{&quot;note&quot;: &quot;loose stone, behind the chapel&quot;}", "the smith of Arden keep the silver bell? yes"])
def test_no_four_words_of_a_forget_row_are_left(said: str) -> None:
    hide = redaction(SECRET)
    page = hide.page(f"<p>{said}</p>")
    for text in strings(SECRET):
        words = re.findall(r"[^\W_]+", text.casefold())
        for i in range(len(words) - LONG + 1):
            there = re.findall(r"[^\W_]+", re.sub(r"<[^>]*>", "|", escaping.unescape(page)).casefold())
            assert words[i:i + LONG] not in [there[k:k + LONG] for k in range(len(there))], page
    assert hide.page("<p>The model is set against a control.</p>") == "<p>The model is set against a control.</p>"


@pytest.mark.parametrize(("row", "said", "hidden"), [
    (SECRET.model_copy(update={"entity": "Mark"}), "<p>The worst entity is Mark, by far.</p>", "Mark"),
    (SECRET.model_copy(update={"entity": "Page"}), "<td>Page</td>", "Page"),
    (SECRET.model_copy(update={"entity": "Will Page"}), "<p>Will Page asked.</p>", "Page"),
    (SECRET.model_copy(update={"short_answer": "Rows"}), "<p>It is said to be Rows today.</p>", "Rows"),
    (SECRET, "<p>Somebody in Arden asked.</p>", "Arden"), (SECRET, "<h1>for orme</h1>", "orme")])
def test_names_that_no_field_or_only_common_words_make(row: Example, said: str, hidden: str) -> None:
    assert not re.search(rf"\b{hidden}\b", redaction(row).page(said))
    for kept in ("<th>Page</th>", "<p>Mark the rows of a page.</p>"):
        assert redaction(row).page(kept) == kept
