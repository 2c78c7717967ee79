"""The page: complete, self-contained, safe with hostile text, calm about what is missing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from expunge.errors import DataError, MissingError
from expunge.judgement.checklist import checklist
from expunge.judgement.power import worded_power
from expunge.records.base import write_json, write_jsonl
from expunge.records.score import Audit, Power, Score
from expunge.report.answers import POWER, asked_about
from expunge.report.differences import run_table
from expunge.report.gather import gather, group
from expunge.report.page import render

from .conftest import attacked_scores, scores

Make = Callable[..., Path]
VOID = {"wbr", "meta", "br", "rect", "path", "circle", "line"}


class Tags(HTMLParser):
    """Collects tags and attributes and checks that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def page(folders: list[Path], tmp_path: Path) -> str:
    out = tmp_path / "out" / "page.html"
    assert render(folders, out=out) == out
    html = out.read_text(encoding="utf-8")
    check_self_contained(html)
    return html


def check_self_contained(html: str) -> None:
    tags = Tags(html)
    assert tags.open == []
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids)), "ids repeat"
    assert not {tag for tag, _ in tags.seen} & {"script", "link", "img", "iframe", "object", "image"}
    for _, attrs in tags.seen:
        assert not any(key.startswith("on") for key in attrs)
        for key in ("src", "href", "xlink:href"):
            assert (attrs.get(key) or "#").startswith("#")
    assert "@import" not in html and not re.search(r"url\((?!#)", html)


def test_single_page_has_every_section(make_run: Make, tmp_path: Path) -> None:
    html = page([make_run()], tmp_path)
    for section in (
        "verdict",
        "alarms",
        "trade-off",
        "scores",
        "distributions",
        "answers",
        "training",
        "not-tested",
        "reproduce",
        "glossary",
    ):
        assert f'id="{section}"' in html
    for said in (
        "Verdict: forgets",
        "p = 0.27",
        "1a2b3c4d5e6f",
        "2025-01-02",
        "812,345",
        "The forget loss rose",
        "Quantisation",
        "0.130 to 0.200",
        "Not available: no reference model was given",
        "2.1e−13",
        "term: npo",
        "cosine of forget and retain gradients",
        "evaluation during training",
        "expunge forget",
    ):
        assert said in html, said
    assert html.count('role="img" aria-label=') >= 9
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_the_checklist_leads_to_its_evidence(make_run: Make, tmp_path: Path) -> None:
    run = make_run(attacks=True)
    stored = Audit.read(run)
    found = checklist(stored)
    stored.model_copy(update={"checklist": found}).write(run / "audit.json")
    html = page([run], tmp_path)
    section = html.partition('id="checklist"')[2].partition("</section>")[0]
    assert all(str(escape(text)) in section for item in found for text in (item.question, item.answer, item.found))
    led = re.findall(r'href="#([^"]+)"', section)
    assert len(led) == sum(len(item.evidence) for item in found) > 5
    assert not [where for where in led if f'id="{where}"' not in html], "every name leads to its row"
    assert 'id="checklist"' not in page([make_run("earlier", checklist=[])], tmp_path), "audits of earlier versions"


def test_four_answers_stand_at_the_top(make_run: Make, tmp_path: Path) -> None:
    """Did it forget, for whom, how sure, what was not tested: in this order, before anything else."""
    html = page([make_run(attacks=True)], tmp_path)
    asked = ["Did it forget?", "For whom?", "How sure?", "What was not tested?", "<table", 'id="alarms"']
    places = [html.index(part) for part in asked]
    assert places == sorted(places)
    assert "No. Left alone the model does not show the forget set" in html
    assert "Against an attacker who can only ask: forgets" in html and "who has the weights: suppresses" in html
    assert "retrained model" in html[places[2]:places[3]]


def test_the_finding_on_power_is_known_by_its_beginning() -> None:
    for missed in (0, 2):
        assert worded_power(Power(entities=10, missed=missed, control="retrained")).startswith(POWER)


def test_attacks_have_a_section_and_a_verdict_per_access(make_run: Make, tmp_path: Path) -> None:
    html = page([make_run(attacks=True)], tmp_path)
    assert 'id="under-attack"' in html and "Verdict: suppresses" in html and "hidden, not gone" in html
    for said in (
        "who can only ask",
        "◐</span> suppresses",
        "–</span> not tested",
        "Not tried: prompts searched.",
        "relearn brings it back",
        "class=\"leak\"><th scope=\"row\">relearn<span",
        "0.220 to 0.380",
        "weights: who has the weights",
        "2 scores): utility, not leaks",
        "interpolate: it needs the original model",
        "Excess over the control",
        "Excess in forget.rouge_l over the control",
        "relearn(at=[5]): forget.probability over steps",
        "unlearned from 0.16 to 0.43",
        "What came back",
        "retrained, relearn",
        "asked about entities the attacker",
        "Only the lead counts.",
    ):
        assert said in html, said
    assert "after relearn" not in html.partition('id="under-attack"')[0], "the score table is of the model left alone"
    assert "relearn(steps=5)" in html and html.count('class="leak"') == 2


def test_without_observations_or_controls_attacks_are_still_shown(make_run: Make, tmp_path: Path) -> None:
    nothing = {"excess": None, "excess_interval": None, "controls": {}}
    bare = tuple(s.model_copy(update=nothing) for s in attacked_scores())
    html = page([make_run(attacks=True, observations=False, scores=(*scores(), *bare), steps=0)], tmp_path)
    assert "Under attack" in html and "What came back" not in html and "Excess over the control</h3>" not in html
    gone = tuple(s for s in attacked_scores() if s.value is None)
    html = page([make_run("gone", attacks=True, scores=(*scores(), *gone))], tmp_path)
    assert "interpolate: it needs the original model" in html
    assert 'id="under-attack"' not in page([make_run("plain")], tmp_path)


def test_model_output_under_attack_is_escaped(make_run: Make, tmp_path: Path) -> None:
    run = make_run(attacks=True)
    folder = run / "observations" / "subject" / "attacks" / "relearn-1a2b3c"
    path = folder / "generation.forget.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("northern", "<script>alert(1)</script>"), encoding="utf-8")
    html = page([run], tmp_path)
    assert "<script" not in html and "alert" in html
    (folder / "source.json").write_text("{torn", encoding="utf-8")
    assert "What came back" not in page([run], tmp_path)


def test_layer_profiles_are_drawn_where_a_probe_looked_inside(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    lens = [{"id": f"r{i}", "entity": "", "form": "answer", "lens": [-3.0, -2.0 - i, -1.0]} for i in range(2)]
    write_jsonl(run / "observations" / "subject" / "lens.forget.jsonl", lens)
    slopes = [{"id": "r0", "entity": "", "form": "answer", "norm": 1.0, "blocks": [0.5, 0.25, 2.0]}]
    write_jsonl(run / "observations" / "subject" / "gradient.forget.jsonl", slopes)
    audit = json.loads((run / "audit.json").read_text())
    audit["scores"].append({"name": "linear_probe", "value": 0.9, "by_layer": {
        "unlearned": [[0, 0.5], [2, 0.75]], "original": [[0, 0.5], [2, 1.0]]}})
    write_json(run / "audit.json", audit)
    html = page([run], tmp_path)
    assert 'id="layers"' in html
    assert "lens, forget rows: log-probability of the answer over layer: unlearned from -3 to -1" in html
    assert "gradient of the loss, forget rows: its norm, mean over the block" in html and "from 0.5 to 2" in html
    assert "forget against holdout rows over layer: original from 0.5 to 1; unlearned from 0.5 to 0.75" in html


def test_comparison_has_a_heat_map(make_run: Make, tmp_path: Path) -> None:
    folders = [make_run(f"npo{s}", seed=s, shift=0.01 * s, attacks=True) for s in range(2)]
    folders += [make_run("ga", recipe="ga", attacks=True, shift=-0.3), make_run("bare", recipe="idk")]
    html = page(folders, tmp_path)
    assert 'id="heat"' in html and "Every score under attack, run by run" in html
    assert "mean and range of 2 seeds" in html and "not available: it needs the original model" not in html
    assert ">interpolate</th>" not in html, "its probability was never asked for"
    assert 'title="not asked for"' in html and "0.305</td>" in html and 'class="num won more"' in html
    assert 'id="heat"' not in page([make_run("x"), make_run("y", recipe="ga")], tmp_path)


def test_title_and_bytes_are_stable(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    first = render([run], out=tmp_path / "a.html", title="One & only").read_bytes()
    assert b"</span> One &amp; only <span" in first and b"<title>One &amp; only: " in first
    assert render([run], out=tmp_path / "b.html", title="One & only").read_bytes() == first


def test_model_output_is_escaped(make_run: Make, tmp_path: Path) -> None:
    html = page([make_run(hostile=True, recipe="npo<script>")], tmp_path)
    assert "<script" not in html
    assert "&lt;" in html and "alert" in html


def test_lone_surrogates_do_not_stop_the_page(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    path = run / "observations" / "subject" / "generation.forget.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("The town", "\\ud800 town"), encoding="utf-8")
    assert "? town" in page([run], tmp_path)


def test_reference_words_are_marked(make_run: Make, tmp_path: Path) -> None:
    html = page([make_run()], tmp_path)
    assert "<mark>Lindqvist</mark>" in html
    assert "<mark>Mara</mark>" not in html, "the question gives the name away"


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            {"audit": False, "observations": False},
            ["has not been audited", "expunge audit RUN --task authors"],
        ),
        ({"record": False, "steps": 0}, ["No run record belongs to this folder"]),
        ({"retrained": 0, "verdict": None}, ["no retrained model to compare with", "--split retain"]),
        (
            {"observations": False},
            ["No generated answers were kept", "Truth ratios need", "Answer losses need"],
        ),
        ({"steps": 0}, ["steps.jsonl is absent or empty"]),
        ({"scores": ()}, ["The audit holds no scores", "This chart needs a forget score"]),
        ({"verdict": None}, ["The audit holds no verdict"]),
    ],
)
def test_missing_parts_are_named(make_run: Make, tmp_path: Path, parts: dict, said: list[str]) -> None:
    html = page([make_run(**parts)], tmp_path)
    for sentence in said:
        assert sentence in html, sentence


def test_a_torn_last_line_and_repeated_steps_are_fine(make_run: Make, tmp_path: Path) -> None:
    run = make_run(steps=10)
    with (run / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 10, "loss": 1.0}\n[1]\n{"step": 11, "lo')
    assert "2 line(s) of steps.jsonl could not be read" in page([run], tmp_path)


def test_steps_full_of_nothing(make_run: Make, tmp_path: Path) -> None:
    run = make_run(steps=0)
    (run / "steps.jsonl").write_text(
        '{"step": 1, "loss": null, "terms": null}\n{"loss": NaN}\n', encoding="utf-8"
    )
    assert "hold no numbers to draw" in page([run], tmp_path)


def test_audit_elsewhere_finds_its_run(make_run: Make, tmp_path: Path) -> None:
    run = make_run("run", audit=False, observations=False)
    audit = make_run("audit", record=False, steps=0, run="../run/record.json")
    for folders in ([audit], [run, audit], [audit, run]):
        html = page(folders, tmp_path)
        assert "npo(beta=0.1) + retain_kl" in html and "term: npo" in html and 'id="runs"' not in html


def test_comparison_groups_seeds(make_run: Make, tmp_path: Path) -> None:
    folders = [make_run(f"npo{s}", seed=s, shift=0.01 * s) for s in range(3)]
    folders += [make_run("ga", recipe="ga", shift=-0.1, verdict=None, hostile=True)]
    html = page(folders, tmp_path)
    for section in ("runs", "trade-off", "scores", "answers", "not-tested", "reproduce", "alarms"):
        assert f'id="{section}"' in html
    assert "3 seeds: median, range" in html and "0.160 to 0.180" in html and "0.170" in html
    assert "A: npo(beta=0.1) + retain_kl" in html and "B: ga" in html
    assert "Every run on its own" in html and "<script" not in html


@pytest.mark.parametrize(("second", "shared", "columns"), [
    ({}, "verdict model task seed", "recipe"), ({"seed": 5}, "verdict model task", "recipe seed"),
    ({"seed": 5, "verdict": None}, "model task", "verdict recipe seed"),
    ({"verdict": None}, "model task seed", "verdict recipe")])
def test_what_all_runs_share_stands_above_the_table(make_run: Make, second: dict, shared: str, columns: str) -> None:
    views = gather([make_run("a"), make_run("b", recipe="ga", **second)])
    verdicts = {v.name: v.audit.verdict.outcome if v.audit and v.audit.verdict else "none" for v in views}
    found = run_table(group(views), verdicts)
    assert [name for name, _ in found.shared] == shared.split()
    assert [*["verdict"] * (not found.one_verdict), *found.columns] == columns.split()
    assert [(row.letter, row.run, len(row.cells)) for row in found.rows] == [
        ("A", "a", len(found.columns)), ("B", "b", len(found.columns))]


def test_comparison_says_what_differs(make_run: Make, tmp_path: Path) -> None:
    folders = [
        make_run("a"),
        make_run("b", task_fingerprint="other", task="elsewhere"),
        make_run("c", audit=False, observations=False),
        make_run("d", record=False, retrained=1),
    ]
    html = page(folders, tmp_path)
    for said in ("asked different rows", "did not use the same retrained models", "without scores: c"):
        assert said in html, said


def test_same_folder_names_are_told_apart(make_run: Make, tmp_path: Path) -> None:
    html = page([make_run("one/audit"), make_run("two/audit", recipe="ga")], tmp_path)
    assert "one/audit" in html and "two/audit" in html


def test_wrong_folders_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    with pytest.raises(MissingError, match="There is no folder"):
        render([tmp_path / "nowhere"], out=out)
    with pytest.raises(MissingError, match="neither a run nor an audit"):
        render([tmp_path], out=out)
    with pytest.raises(MissingError, match="No folder was given"):
        render([], out=out)
    write_json(tmp_path / "record.json", {"schema": "expunge.run/1"})
    with pytest.raises(DataError, match="not a readable RunRecord"):
        render([tmp_path], out=out)
    assert not out.exists()


def test_no_torch_is_imported() -> None:
    code = "import expunge.report.page, expunge.report.leaderboard, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


def test_the_page_says_how_many_parameters_could_move(make_run: Make, tmp_path: Path) -> None:
    """Of the very fields that a scope counts: 3 masked elements of 4 x 3 weights, and no bias."""
    from types import SimpleNamespace

    import torch

    from expunge.models.scope import Scope
    from expunge.records.run import RunRecord

    layer: Any = SimpleNamespace(model=torch.nn.Linear(3, 4))
    mask = torch.zeros(4, 3, dtype=torch.bool)
    mask[0] = True
    counts = Scope(layer, ("weight",), {"weight": mask}).counts()
    run = make_run("run")
    record = RunRecord.read(run / "record.json")
    assert counts.keys() == record.parameters.keys()
    record.model_copy(update={"parameters": counts}).write(run / "record.json")
    assert "3 of 16 (18.8 %)" in render([run], out=tmp_path / "page.html").read_text(encoding="utf-8")


def test_whom_an_audit_is_about() -> None:
    def asked(n: int, entities: int) -> Score:
        return Score(name="forget.probability", value=0.1, n=n, entities=entities)

    assert asked_about((asked(20, 2), asked(9, 1))) == "20 forget rows about 2 entities"
    assert asked_about((asked(20, 1),)) == "20 forget rows about 1 entity"
    assert asked_about((asked(20, 20),)) == asked_about((asked(20, 0),)) == "20 forget rows" and asked_about(()) == ""


def test_the_headline_says_what_the_verdict_covers(make_run: Make, tmp_path: Path) -> None:
    run = make_run()
    audit = json.loads((run / "audit.json").read_text())
    audit["verdict"]["scope"] = {"silent": ["plain questions", "hints"], "untested": ["jailbreaks"]}
    write_json(run / "audit.json", audit)
    html = page([run], tmp_path)
    assert ('Verdict: forgets <span class="scope">(nothing found by plain questions, hints; not tried: jailbreaks)'
            '</span></h1>') in html
    assert "Yes, as far as it was tested." in html and "<dd>Jailbreaks. <a" in html
