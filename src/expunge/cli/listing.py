"""What `ls`, `explain` and `doctor` show. Listing imports no plug-in and no torch."""

from __future__ import annotations

import importlib.util
import inspect
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.errors import UsageError, did_you_mean, install_line
from expunge.models import fast
from expunge.plugin import KINDS, METHODS, SOURCES, Kind, Plugin
from expunge.registry import broken, entries, find, load, of_kind, serves_of
from expunge.taxonomy import AXES, place_of, place_text

PLURALS: dict[str, Kind] = {about.plural: kind for kind, about in KINDS.items()}


def listing(what: str) -> dict[str, dict[str, str]]:
    """Group -> name -> one line. `methods` is every kind a recipe is made of."""
    from expunge.audit.suites import SUITES

    extra = {"suites": {k: _contents(v) for k, v in SUITES.items()}}
    what = next((about.plural for kind, about in KINDS.items() if kind == what), what)
    if what == "all":
        groups = [*PLURALS, *extra]
    elif what == "methods":
        groups = [KINDS[kind].plural for kind in METHODS]
    elif what in PLURALS or what in extra:
        groups = [what]
    else:
        raise UsageError(f"There is nothing called {what!r} to list.",
                         did_you_mean(what, ["all", "methods", *PLURALS, *extra]))
    found = {g: extra[g] if g in extra else {e.name: e.summary for e in of_kind(PLURALS[g])} for g in groups}
    return {g: rows for g, rows in found.items() if rows or len(groups) == 1}


def listing_by(axis: str, what: str = "all") -> dict[str, dict[str, str]]:
    """Value of an axis of the taxonomy, with its meaning -> kind and name -> one line; every value, also one without
    a plug-in."""
    if axis not in AXES:
        raise UsageError(f"There is no axis {axis!r} of the taxonomy.", did_you_mean(axis, AXES),
                         "Type: expunge ls --by guarantee")
    known = entries()
    names = [name for rows in listing(what).values() for name in rows if name in known]
    found: dict[str, dict[str, str]] = {}
    for value, meaning in AXES[axis].items():
        mine = [name for name in names if value in place_of(name)[axis]]
        found[f"{value}: {meaning} ({len(mine)})"] = {f"{known[n].kind} {n}": known[n].summary for n in mine}
    return found


def listing_text(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Groups with a line for each of their names."""
    parts = []
    for group, rows in groups.items():
        width = max((len(name) for name in rows), default=0)
        parts.append("\n".join((group, *(f"  {name:<{width}}  {summary}" for name, summary in rows.items()))) + "\n")
    return "\n".join(parts)


def listing_json(what: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The same with which kinds of models (text, image) each serves; suites and tasks of no plug-in serve none."""
    known = entries()
    return {group: {name: {"summary": summary, "serves": serves_of(name) if name in known else [],
                           **({"place": place_of(name)} if name in known else {})}
                    for name, summary in rows.items()} for group, rows in listing(what).items()}


def _contents(terms: Sequence[str]) -> str:
    """`33 metrics, 20 attacks`."""
    attacks = sum(find(term.partition("(")[0].split(" ")[0]).kind == "attack" for term in terms
                  if "." not in term.partition("(")[0])
    return f"{len(terms) - attacks} metrics" + (f", {attacks} attacks" if attacks else "")


def card_of(name: str) -> dict[str, Any]:
    """A plug-in's card and options as plain data."""
    name = name.partition(":")[0]  # `tofu:forget10` is a part of the task tofu
    plugin = load(name)
    card = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in vars(plugin.card).items()}
    options = {
        k: {"default": None if f.is_required() else f.get_default(call_default_factory=True),
            "required": f.is_required(), "description": f.description or ""}
        for k, f in plugin.Spec.model_fields.items()
    }
    return card | {
        "options": options, "search_space": {k: list(v) for k, v in plugin.space.items()},
        "must_show": [p.why or p.check for p in plugin.must_show],
        "serves": serves_of(name), "expands_to": getattr(plugin, "expands_to", ""), "file": find(name).module,
        "path": inspect.getfile(plugin), "use": _use(name, plugin),
        "place": {axis: list(values) for axis, values in place_of(name).items()},
    }


def _use(name: str, plugin: type[Plugin]) -> str:
    """How it is typed, by its kind; for a part of a recipe beside the parts that it needs."""
    kind = plugin.card.kind
    given = ", ".join(f"{k}=..." for k, about in plugin.Spec.model_fields.items() if about.is_required())
    term = f"{name}({given})" if given else name
    if kind == "exact":
        return f"expunge train MODEL --forget FILE --method {shlex.quote(term)} --out RUN, then expunge forget RUN"
    if kind in METHODS:
        recipe = term if kind in SOURCES or hasattr(plugin, "expands_to") else f"npo + {term}"
        return f"expunge forget MODEL --forget FILE --method {shlex.quote(recipe)} --out RUN"
    if kind == "task":
        return f"--task {next(iter(plugin.names()), term)}, in place of --forget FILE"  # type: ignore[attr-defined]
    if kind == "probe":
        return "metrics ask for it; it is not typed"
    split = "forget." if getattr(plugin.card, "per_split", False) else ""
    return f"expunge audit RUN --suite {shlex.quote(f'quick,{split}{term}')}"


def card_text(name: str) -> str:
    """The card as a person reads it; of a suite its metrics and attacks."""
    from expunge.audit.suites import SUITES

    if name in SUITES:
        return "\n".join((f"{name} (suite): {_contents(SUITES[name])}", *(f"  {term}" for term in SUITES[name])))
    card = card_of(name)
    lines = [f"{card['name']} ({card['kind']}): {card['summary']}"]
    for key in ("paper", "formula", "defaults", "companions", "expands_to"):
        if card.get(key):
            lines.append(f"  {key.replace('_', ' '):<12} {card[key]}")
    if "licence" in card:
        lines += [f"  {key:<12} {card[key]}" for key in ("licence", "source", "suite")]
        numbers: dict[str, list[str]] = {}
        for found in card["published"]:
            about = f"{found.task}, {found.model}, {found.subject} ({found.source})"
            numbers.setdefault(about, []).append(f"{found.score} {found.value:g}")
        lines += [f"  {'published':<12} {', '.join(values)}: {about}" for about, values in numbers.items()]
    if card.get("memory"):
        lines.append(f"  {'memory':<12} beside weights, gradient and optimizer, in copies of what may move: "
                     f"{card['memory']}")
    for key, title in (("needs", "needs"), ("model_needs", "of the model"), ("conflicts", "conflicts")):
        if card.get(key):
            lines.append(f"  {title:<12} {', '.join(card[key])}")
    lines.append(f"  {'serves':<12} {', '.join(card['serves'])}")
    lines.append(f"  {'place':<12} {place_text(name.partition(':')[0])}")
    if "higher_is" in card:
        bounds = "any number" if card["range"] is None else "{:g} to {:g}".format(*card["range"])
        lines.append(f"  {'reading':<12} higher means the model {card['higher_is']}; range: {bounds}; "
                     f"ideal: {card['ideal']}; access: {card['access']}")
    if "asks" in card:
        lines.append(f"  {'access':<12} {card['access']}")
        lines.append(f"  {'asks':<12} {', '.join(card['asks'])}")
        if card["splits_entities"]:
            lines.append(f"  {'splits':<12} learns from rows of half the entities, is tested on the other half's")
        if card["caution"]:
            lines.append(f"  {'caution':<12} {card['caution']}")
    if card["options"]:
        lines.append("  options")
        for option, about in card["options"].items():
            value = "required" if about["required"] else repr(about["default"])
            searched = card["search_space"].get(option)
            lines.append(f"    {option} = {value}: {about['description']}" + (
                f" (searched: {searched[0]} {', '.join(map(str, searched[1:]))})" if searched else ""))
    for key, title in (("must_show", "must show"), ("deviations", "deviations")):
        if card.get(key):
            lines.append(f"  {title}")
            lines += [f"    - {text}" for text in card[key]]
    lines += [f"  {'use':<12} {card['use']}", f"  {'code':<12} {card['path']}"]
    return "\n".join(lines)


def broken_plugins() -> dict[str, str]:
    """Name -> why it cannot be used, of every plug-in that is not ours; each is imported."""
    found = dict(broken())
    for entry in entries().values():
        if entry.file is not None:
            try:
                entry.load()
            except UsageError as problem:
                found[entry.name] = " ".join(part.rstrip(".") for part in (problem.what, problem.why) if part)
    return found


def diagnosis(tricks: bool = False) -> dict[str, str]:
    """What a bug report should hold, and what would stop a run; with `tricks` also which tricks for speed are on."""
    from expunge.audit.cache import cache_root
    from expunge.records.run import environment

    found: dict[str, str] = {"python": platform.python_version(), "platform": f"{sys.platform}-{platform.machine()}"}
    problems = []
    found |= {k: v for k, v in environment()["packages"].items()}
    try:
        import torch

        from expunge.models.fast.linear import multiplies

        found["accelerator"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none (cpu)"
        found["threads"] = str(torch.get_num_threads())
        found["products"] = multiplies()
    except ImportError as error:
        problems.append(f"torch does not import: {error}")
    for extra, module in (("hub", "datasets"), ("parquet", "pyarrow"), ("sweep", "optuna"), ("torchao", "torchao"),
                          ("real", "gguf"), ("eval", "lm_eval"), ("certify", "rfc8785"), ("tensorboard", "tensorboard"),
                          ("wandb", "wandb"), ("trackio", "trackio"), ("dp", "opacus")):
        there = importlib.util.find_spec(module) is not None
        found[f"extra {extra}"] = "installed" if there else f"missing: {install_line(extra)}"
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
        writable = os.access(root, os.W_OK)
    except OSError:
        writable = False
    size = sum(p.stat().st_size for p in root.rglob("*") if p.is_file()) if writable else 0
    found["cache"] = f"{root} ({size / 1e6:.0f} MB)"
    if not writable:
        problems.append(f"the cache {root} cannot be written; set EXPUNGE_CACHE")
    data = os.environ.get("EXPUNGE_DATA")
    found["EXPUNGE_DATA"] = data or "not set (TOFU comes from the hub)"
    if data and not Path(data).is_dir():
        problems.append(f"EXPUNGE_DATA={data} is not a folder")
    found["plug-ins"] = str(sum(len(of_kind(k)) for k in KINDS))
    wrong = broken_plugins()
    outside = [f"{e.name} ({e.file.name})" for e in entries().values() if e.file is not None and e.name not in wrong]
    if outside:
        found["plug-ins of others"] = ", ".join(sorted(outside))
    problems += [f"plug-in {name}: {why}" for name, why in wrong.items()]
    if tricks:
        found |= {name: f"{'on' if fast.enabled(name) else 'off'}: {what}" for name, what in fast.TRICKS.items()}
    found["problems"] = "; ".join(problems) or "none"
    return found
