"""The report: one run, or several side by side, as one HTML file that needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from expunge.records.base import fingerprint, write_text
from expunge.records.observation import Observations
from expunge.report import attacks, charts, evidence, tables, text, under_attack
from expunge.report.answers import four_answers
from expunge.report.commands import run_command
from expunge.report.comparison import cautions, lacking
from expunge.report.comparison_text import noise_findings
from expunge.report.differences import run_table
from expunge.report.facts import facts, reproduce
from expunge.report.gather import Group, RunView, gather, group
from expunge.report.held import still_there
from expunge.report.parts import Chart, Missing, chart
from expunge.report.paths import shortened
from expunge.report.redact import Redaction, check_known
from expunge.report.several import curves, pareto

FORGET_ANSWERS, RETAIN_ANSWERS = 12, 6
COMPARED_ANSWERS, COMPARED_RUNS = 6, 6
"""How many rows and runs a comparison shows answers of."""


def report(folders: Sequence[str | Path], *, out: str | Path, title: str | None = None, redact: bool = False) -> Path:
    """One self-contained page over one run, or several side by side.

    Args:
        folders: folders of runs, audits or grids.
        out: the page.
        title: its heading; the finding by default.
        redact: write ids and lengths in place of prompts, answers and names.
    """
    return render([Path(f) for f in folders], out=Path(out), title=title, redact=redact)


def render(folders: Sequence[Path], *, out: Path, title: str | None = None, redact: bool = False) -> Path:
    """Write the page of one run, or the comparison of several, to `out` and return `out`.

    Each folder is a run folder or an audit folder. Raises MissingError when one does not exist or
    holds neither record.json nor audit.json; anything else that is absent is named on the page.

    Args:
        title: heading of the page; its finding when left out.
        redact: replace prompts, answers and names by row numbers and lengths.
    """
    views = tuple(map(shortened, gather(folders)))
    if redact:
        check_known(views)
    hide = Redaction(views) if redact else None
    views = tuple(map(hide.view, views)) if hide else views
    context = _single(views[0]) if len(views) == 1 else _comparison(views)
    context |= {"redacted": redact, "still_there": still_there(map(Path, folders), Path(out)) if redact else [],
                "cautions": [*lacking(folders), *context.get("cautions", [])]}
    if title:
        context["title"] = title
    if hide and not isinstance(context["answer_blocks"], Missing):
        context["answer_blocks"] = hide.answers(context["answer_blocks"])
    if hide and context.get("under"):
        context["under"]["answers"] = [hide.answer(a, "forget") for a in context["under"]["answers"]]
    html = environment().get_template("page.html.j2").render(context)
    # A lone surrogate in a model's output cannot be written as UTF-8.
    html = (hide.page(html) if hide else html).encode("utf-8", "replace").decode("utf-8")
    write_text(Path(out), html)
    return Path(out)


def environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"number": text.number, "interval": text.interval, "explain": text.explain,
                            "breakable": _breakable, "anchor": anchor}
    environment.globals |= {"reading": text.READING, "ideal": text.ideal, "threat_words": text.THREATS,
                            "holders": text.HOLDERS}
    return environment


def anchor(key: str) -> str:
    """Where a score stands on the page, by its key: `forget.probability@relearn(steps=16)`."""
    return f"score-{re.sub(r'[^A-Za-z0-9]+', '-', key).strip('-')}-{fingerprint(key)[:4]}"


def _breakable(name: str) -> Markup:
    """A score name that a narrow screen may break at a dot, an underscore, an equals sign, a comma or a bracket."""
    return Markup(re.sub(r"([._=,])|(?=\()", r"\1<wbr>", str(escape(name))))


def _single(view: RunView) -> dict[str, Any]:
    audit = view.audit
    scores = audit.scores if audit else ()
    return {
        "mode": "single",
        "title": text.finding(view.audit),
        "subtitle": view.recipe or view.name,
        "facts": facts(view),
        "verdict": _verdict(view),
        "alarms": [*_standing(view), *(view.audit.notes if view.audit else ()),
                   *(view.record.alarms if view.record else ()), *attacks.undecided(view.audit)],
        "has_record": view.record is not None,
        "blocks": tables.blocks([s for s in scores if s.attack is None]),
        "under": under_attack.section(view),
        "checklist": audit.checklist if audit else (),
        "no_scores": _no_scores(view),
        "reference_note": _reference_note(view),
        "trade_off": _trade_off(group([view]), single=True),
        "curves": _curves(view),
        "steps_note": _steps_note(view),
        "distributions": _distributions(view),
        "profiles": under_attack.profiles(view),
        "answer_blocks": _answers(view),
        "not_tested": _not_tested([view]),
        "reproduce": reproduce(view),
        "glossary": _glossary([view]),
    }


def _comparison(views: Sequence[RunView]) -> dict[str, Any]:
    groups = group(views)
    several = any(len(g.views) > 1 for g in groups)
    alone = group([_unmatched(v) for v in views])
    audited = any(v.audit and v.audit.scores for v in views)
    return {
        "mode": "comparison",
        "title": _findings(views),
        "subtitle": "",
        "runs": run_table(groups, {v.name: _verdict(v)["headline"] for v in views}),
        "groups": groups,
        "cautions": cautions(views),
        "verdicts": {v.name: _verdict(v) for v in views},
        "alarms": _alarms(views),
        "has_record": any(v.record for v in views),
        "compared": tables.compare(groups),
        "attacked": tables.compare(groups, attacked=True),
        "heat": under_attack.heat(groups),
        "each": tables.compare(alone) if several else [],
        "views": views,
        "several": several,
        "no_scores": None if audited else _no_scores(views[0]),
        "trade_off": _trade_off(groups, single=False),
        "front": pareto(groups),
        "group_curves": curves(groups),
        "findings": noise_findings(groups),
        "answer_blocks": _compared_answers(groups),
        "not_tested": _not_tested(views),
        "reproduce": [part for v in views for part in reproduce(v, named=True)],
        "glossary": _glossary(views),
    }


def _findings(views: Sequence[RunView]) -> str:
    """`5 runs. Verdicts: 2 forgets, 3 retains`."""
    outcomes = [v.audit.verdict.outcome if v.audit and v.audit.verdict else "no verdict" for v in views]
    counted = {outcome: outcomes.count(outcome) for outcome in (*text.HEADLINES, "no verdict")}
    return f"{len(views)} runs. Verdicts: {', '.join(f'{n} {outcome}' for outcome, n in counted.items() if n)}"


def _unmatched(view: RunView) -> RunView:
    """The same view without what would put it in a group with others."""
    return RunView(name=view.name, audit=view.audit)


def _verdict(view: RunView) -> dict[str, Any]:
    verdict = view.audit.verdict if view.audit else None
    if view.audit is not None and verdict is not None:
        sign, meaning = text.HEADLINES[verdict.outcome][0], text.meaning(verdict, view.audit.scores)
        return {"outcome": verdict.outcome, "sign": sign, "headline": verdict.outcome, "meaning": meaning,
                "sentences": verdict.sentences, "threats": verdict.threats, "leak": verdict.leak, "missing": None,
                "scope": verdict.scope.text,
                "answers": four_answers(view.audit)}
    if view.audit is None:
        missing = Missing("This run has not been audited, so nothing is known about what it forgot.",
                          text.command("audit", model=view.model, task=view.task))
    elif not view.audit.retrained:
        missing = Missing("The audit had no retrained model to compare with. Make one, then audit again.",
                          text.command("retrain", task=view.task))
    else:
        missing = Missing("The audit holds no verdict; its scores stand on their own.")
    return {"outcome": "none", "sign": "–", "headline": "no verdict", "meaning": "", "leak": "", "sentences": (),
            "threats": (), "answers": [], "scope": "", "missing": missing}


def _no_scores(view: RunView) -> Missing | None:
    if view.audit and view.audit.scores:
        return None
    what = "The audit holds no scores." if view.audit else "There is no audit yet, so there are no scores."
    return Missing(what, text.command("audit", model=view.model, task=view.task))


def _reference_note(view: RunView) -> Missing | None:
    if view.audit and view.audit.controls and all(check.problem for check in view.audit.controls):
        return Missing("No retrained model that was given counts, so the column is empty. The findings say why.")
    if view.audit and not view.audit.retrained:
        return Missing("No retrained model was given, so its column is empty. It is made with:",
                       text.command("retrain", task=view.task))
    return None


def _trade_off(groups: Sequence[Group], *, single: bool) -> Chart | Missing:
    views = [v for g in groups for v in g.views]
    names = tables.axes(views)
    points = tables.points(groups, *names, single=single) if names else []
    if not names or not any(p.role == "unlearned" for p in points):
        return Missing(
            "This chart needs a forget score (forget.probability or forget.rouge_l) and a utility score "
            "(model_utility or retain.probability) of the same run.",
            text.command("audit", model=views[0].model, task=views[0].task))
    unit = single and all(0 <= p.x <= 1 and 0 <= p.y <= 1 for p in points)
    x_title, y_title = f"{names[0]} (lower = knows less)", f"{names[1]} (higher = kept more)"
    spec = charts.forget_utility(points, x_title, y_title, unit=unit)
    caption = ("The goal is the retrained model's place, not the upper left corner. " + (
        "Bars are 95 % bootstrap intervals over examples." if single else
        "Letters are the columns of the table. Bars are 95 % bootstrap intervals for one run, and the range "
        "over seeds around the median for several. The axes do not start at zero."))
    return chart("tradeoff", spec, "", caption)


def _curves(view: RunView) -> list[Chart] | Missing:
    if not view.steps:
        if view.record is None:
            return Missing("No run record belongs to this folder, so its training is unknown.",
                           text.command("forget", model=view.model, task=view.task))
        return Missing("The run left no training steps (steps.jsonl is absent or empty). An edit without a "
                       "loop has none; any other recipe writes them when run:", run_command(view.record))
    found = []
    for i, panel in enumerate(evidence.panels(view.steps)):
        caption = f"Each point is the mean of {panel.bin} steps." if panel.bin > 1 else ""
        spec = charts.curve(panel.title, panel.series, dots=panel.dots)
        found.append(chart(f"curve{i}", spec, panel.title, caption))
    return found or Missing("The step lines hold no numbers to draw.")


def _steps_note(view: RunView) -> str:
    if not view.unreadable_steps:
        return ""
    return f"{view.unreadable_steps} line(s) of steps.jsonl could not be read and were left out."


def _subjects(view: RunView) -> list[tuple[str, str, Observations]]:
    """(label, role, observations) of the models whose answers were kept; the first retrained one."""
    found = [("original", "original", view.original), ("unlearned", "unlearned", view.subject)]
    if view.retrained:
        found.append(("retrained", "retrained", view.retrained[0]))
    return [item for item in found if item[2].keys()]


def _distributions(view: RunView) -> list[Chart | Missing]:
    audit = text.command("audit", model=view.model, task=view.task)
    subjects = _subjects(view)
    line, dash_dot = charts.Line, [7, 3, 2, 3]
    ratios = [line(label, role, evidence.truth_ratios(seen, "forget")) for label, role, seen in subjects]
    losses = [line(label, role, evidence.losses(seen, "forget")) for label, role, seen in subjects]
    holdout = evidence.losses(view.subject, "holdout")
    losses.append(line("unlearned, holdout rows", "unlearned", holdout, dash_dot))
    found: list[Chart | Missing] = []
    if any(r.values for r in ratios):
        found.append(chart(
            "ratios", charts.ecdf(ratios, "truth ratio on forget rows (log scale)", log=True),
            "Truth ratio",
            "Probability of wrong answers over that of a paraphrase of the right one. Forget quality "
            "asks whether the unlearned and the retrained curve could be one."))
    else:
        found.append(Missing("Truth ratios need likelihood rows of paraphrased and wrong answers on the "
                             "forget set, from a task that has both.", audit))
    if any(x.values for x in losses):
        found.append(chart(
            "losses", charts.ecdf(losses, "answer loss (nats per token)"), "Answer loss",
            "On forget rows, and for the unlearned model also on holdout rows that no model saw. Forget "
            "rows to the right of the retrained curve are avoided, not forgotten."))
    else:
        found.append(Missing("Answer losses need likelihood rows on the forget set.", audit))
    return found


def _answers(view: RunView) -> list[tuple[str, list[evidence.Answer]]] | Missing:
    subjects = _subjects(view)
    blocks = [("Forget rows", evidence.answers(subjects, "forget", FORGET_ANSWERS)),
              ("Retain rows", evidence.answers(subjects, "retain", RETAIN_ANSWERS))]
    return [b for b in blocks if b[1]] or Missing(
        "No generated answers were kept. They are written by an audit with a generation metric "
        "(forget.rouge_l among others).", text.command("audit", model=view.model, task=view.task))


def _compared_answers(groups: Sequence[Group]) -> list[tuple[str, list[evidence.Answer]]] | Missing:
    """The first run of each recipe beside the first original and retrained model there is."""
    views = [v for g in groups for v in g.views]
    original = next((v.original for v in views if v.original.keys()), None)
    retrained = next((v.retrained[0] for v in views if v.retrained and v.retrained[0].keys()), None)
    columns = [("original", "original", original)] if original else []
    columns += [(f"{g.letter}: {g.title}", "unlearned", g.views[0].subject)
                for g in groups[:COMPARED_RUNS] if g.views[0].subject.keys()]
    columns += [("retrained", "retrained", retrained)] if retrained else []
    found = evidence.answers([(a, b, c) for a, b, c in columns if c], "forget", COMPARED_ANSWERS)
    return [("Forget rows", found)] if found else Missing(
        "No generated answers were kept by any of these audits.",
        text.command("audit", model=views[0].model, task=views[0].task))


def _standing(view: RunView) -> list[str]:
    """Said first of a run that did not end, or whose rows are gone."""
    record, purged = view.record, view.purged
    found = [f"This run is unfinished: {record.unfinished}. Go on with: {run_command(record, resume=True)}"] if (
        record and record.unfinished) else []
    return found + ([f"Its rows were purged on {purged.when[:10]}: answers and distributions cannot be shown."]
                    if purged else [])


def _alarms(views: Sequence[RunView]) -> list[str]:
    """Every alarm once, with the runs that raised it."""
    raised: dict[str, list[str]] = {}
    for view in views:
        for alarm in (*_standing(view), *(view.audit.notes if view.audit else ()),
                      *(view.record.alarms if view.record else ())):
            raised.setdefault(alarm, []).append(view.name)
    return [f"{', '.join(names)}: {alarm}" for alarm, names in raised.items()]


def _not_tested(views: Sequence[RunView]) -> list[str]:
    verdicts = (v.audit.verdict for v in views if v.audit)
    return list(dict.fromkeys(line for verdict in verdicts if verdict for line in verdict.not_tested))


def _glossary(views: Sequence[RunView]) -> list[tuple[str, str]]:
    names = {text.base_name(s.name) for v in views if v.audit for s in v.audit.scores}
    names |= {"mia"} if any(name.startswith("mia.") for name in names) else set()
    words = list(text.WORDS.items()) if names else []
    return words + [(name, text.explain(name) or f"See: expunge explain {name}") for name in sorted(names)]
