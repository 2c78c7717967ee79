"""The pages of the site, in build/docs: docs/, README, CONTRIBUTING and CHANGELOG, and one page per plug-in.

`make docs` runs it and then mkdocs. The page of a plug-in is made from its card and options, that of a method also from
its gradient (pushes.py) and from stored results (method_pages.py).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from expunge.cli.listing import card_of
from expunge.plugin import KINDS
from expunge.records.settings import Settings
from expunge.registry import Entry, of_kind, serves_of
from expunge.report.leaderboard import table
from expunge.taxonomy import place_of, place_text

ROOT = Path(__file__).resolve().parent.parent
BUILT = ROOT / "build" / "docs"
COPIED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages beside docs/ -> their name on the site."""
EXAMPLES: dict[str, str] = {
    "objective": 'forget MODEL --task authors --method "{name} + retain_nll" --out run',
    "preset": 'forget MODEL --task authors --method "{name}" --out run',
    "retain": 'forget MODEL --task authors --method "npo + {name}" --out run',
    "combine": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "trim": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "stop": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "perturb": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "optimizer": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "scope": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "sampler": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "edit": 'forget MODEL --task authors --method "{name}" --out run',
    "sequential": 'forget MODEL --task authors --method "{name}" --out run',
    "federated": 'forget MODEL --task authors --method "npo + retain_nll + {name}" --out run',
    "guard": 'forget MODEL --task authors --method "{name}" --out run',
    "exact": 'train MODEL --task authors --method "{name}" --out original',
    "attack": 'audit run --retrained RETRAINED --suite "{name}" --out attacked',
    "task": 'train MODEL --task "{name}" --split full --out original',
    "metric": 'audit run --retrained RETRAINED --suite "{term}" --out scored',
}
"""Kind -> a command that uses one of it; a probe runs when a metric asks for it."""


SERVED = {"text": "language models", "image": "image classifiers"}
"""Kind of model, as the table of plug-ins names it -> in words."""


def index(linked: bool = False) -> str:
    """Every plug-in by kind, one line each; on the site each name leads to its page."""
    parts = []
    for kind, about in KINDS.items():
        rows = [{"name": f"[`{e.name}`](plugins/{e.name}.md)" if linked else f"`{e.name}`", "what it does": e.summary,
                 "target": place_of(e.name)["target"][0], "guarantee": place_of(e.name)["guarantee"][0],
                 "access": place_of(e.name)["access"][0], "serves": ", ".join(serves_of(e.name))}
                for e in of_kind(kind)]
        if rows:
            title = f"{about.plural.capitalize()}: {about.heading}"
            parts.append(f"## {title}\n\n{table(rows, list(rows[0]))}")
    return "\n\n".join(parts)


def options(settings: type[Settings]) -> str:
    """The options of a command, from the record that checks them."""
    fields = {name: f for name, f in settings.model_fields.items() if name != "mixed_precision"}
    return grid([{"option": f"`--{name.replace('_', '-')}`", "type": kind_of(f.annotation).removesuffix(" or none"),
                  "default": "" if f.default is None else f"`{f.default}`", "what it is": escape(f.description or "")}
                 for name, f in fields.items()])


def example(entry: Entry, card: dict[str, Any]) -> str:
    """A command line that uses the plug-in; empty for a probe."""
    term = f"forget.{entry.name}" if card.get("per_split") else entry.name
    if entry.kind in EXAMPLES:
        return "expunge " + EXAMPLES[entry.kind].format(name=entry.name, term=term)
    return ""


def page(entry: Entry, measured: str = "") -> str:
    """One plug-in: its card, options, what it must show, and a command.

    Args:
        measured: further sections, from `method_pages`.
    """
    card = card_of(entry.name)
    parts = [f"# {entry.name}", f"[All plug-ins](../plugins.md) · {entry.kind}", f"{sentence(entry.summary)}"]
    if card.get("formula"):
        parts.append(f"```text\n{card['formula']}\n```")
    if command := example(entry, card):
        parts.append(f"```console\n$ {command}\n```")
    facts = {
        "Paper": card.get("paper"), "Defaults": card.get("defaults"), "Published with": code(card.get("companions")),
        "Stands for": code(card.get("expands_to")), "Needs": listed(card.get("needs")),
        "Model needs": listed(card.get("model_needs")),
        "Conflicts with": listed(card.get("conflicts")),
        "Place": place_text(entry.name),
        "Serves": ", ".join(SERVED[kind] for kind in serves_of(entry.name)),
        "Memory": card.get("memory"), "Access": card.get("access"), "Family": card.get("family"),
        "Scores taken": listed(card.get("asks")), "Caution": card.get("caution"), "Reading": reading(card),
        "Learns": "from rows of half the entities; tested on the other half" if card.get("splits_entities") else "",
        "File": code(card["file"].replace(".", "/") + ".py"),
    }
    parts.append(grid([{"card": f"**{k}**", " ": escape(v)} for k, v in facts.items() if v]))
    parts += [measured] if measured else []
    if card["options"]:
        types = {name: kind_of(field.annotation) for name, field in entry.load().Spec.model_fields.items()}
        rows = [{"option": f"`{name}`", "type": types[name],
                 "default": "required" if about["required"] else f"`{about['default']!r}`",
                 "searched": search(card["search_space"].get(name)), "what it is": escape(about["description"])}
                for name, about in card["options"].items()]
        parts.append("## Options\n\n" + grid(rows))
    for key, title in (("must_show", "What tests check"), ("deviations", "Deviations from the paper or its code")):
        if card.get(key):
            parts.append(f"## {title}\n\n" + "\n".join(f"- {plain(text)}" for text in card[key]))
    return "\n\n".join(parts) + "\n"


def grid(rows: Sequence[dict[str, str]]) -> str:
    """A table of Markdown cells; a column without content is left out."""
    columns = [c for c in rows[0] if any(row[c] for row in rows)]
    lines = [columns, ["---"] * len(columns), *([row[c].replace("|", "\\|") for c in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sentence(text: str) -> str:
    return plain(text[:1].upper() + text[1:]).rstrip(".") + "."


def plain(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([*_<\[\]`])", r"\\\1", text)


def escape(text: str) -> str:
    """The same, but code stays code."""
    return "".join(p if p.startswith("`") else plain(p) for p in re.split(r"(`[^`]*`)", text))


def kind_of(annotation: Any) -> str:
    """A type as a reader of options needs it: `number`, `none or whole number`, `one of a, b`."""
    if annotation in (None, type(None)):
        return "none"
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return kind_of(inside[0])
    if origin is Literal:
        return "one of " + ", ".join(f"`{value!r}`" for value in inside)
    if origin in (Union, UnionType):
        return " or ".join(kind_of(a) for a in inside)
    if origin is not None:
        return "list of " + kind_of(inside[0]) if inside else "list"
    words = {int: "whole number", float: "number", bool: "yes or no", str: "text"}
    return words.get(annotation, f"`{annotation.__name__}`")


def code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def listed(names: Iterable[str] | None) -> str:
    return ", ".join(f"`{name}`" for name in names or ())


def search(space: list[Any] | None) -> str:
    """`log 0.1 to 10`, `choice of a, b`."""
    if not space:
        return ""
    kind, *values = space
    return f"one of {', '.join(map(str, values))}" if kind == "choice" else f"{values[0]} to {values[1]} ({kind})"


def reading(card: dict[str, Any]) -> str:
    if "higher_is" not in card:
        return ""
    bounds = "any number" if card["range"] is None else "{:g} to {:g}".format(*card["range"])
    return f"higher means: {card['higher_is']}; range: {bounds}; ideal: {card['ideal']}"


def on_the_site(text: str, source: str) -> str:
    """Links of a page outside docs/ as they are on the site."""
    names = {"docs/": "", **COPIED}
    for before, after in names.items():
        text = text.replace(f"]({before}", f"]({after}").replace(f"](../{before}", f"]({after}")
        text = text.replace(f'src="{before}', f'src="{after}')
    return text


def write(place: Path = BUILT) -> None:
    """All pages, anew."""
    from method_pages import sections  # it reads readme.py, which reads this file

    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(ROOT / "docs", place)
    for source, name in COPIED.items():
        (place / name).write_text((ROOT / source).read_text())
    for path in place.rglob("*.md"):
        path.write_text(on_the_site(path.read_text(), path.name))
    listing = place / "plugins.md"
    listing.write_text(listing.read_text().replace(index(), index(linked=True)))
    (place / "plugins").mkdir()
    for kind in KINDS:
        for entry in of_kind(kind):
            (place / "plugins" / f"{entry.name}.md").write_text(page(entry, sections(entry)))


if __name__ == "__main__":
    write()
