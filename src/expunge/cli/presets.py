"""`expunge presets`: the published settings, and what each of them is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import typer

from expunge.cli.app import Json, app, friendly, print_json
from expunge.errors import UsageError, did_you_mean
from expunge.presets import LARGE, PRESETS, PublishedSetting


@app.command()
@friendly
def presets(
    name: Annotated[str | None, typer.Argument(help="A published setting, to see its recipe and source; or a "
                                                      "benchmark.")] = None,
    as_json: Json = False,
) -> None:
    """List published settings, which `forget --preset NAME` runs, each with its source."""
    shown = [p for p in PRESETS if name is None or p.name == name or p.benchmark.lower() == name.lower()]
    if not shown:
        raise UsageError(f"There is no published setting or benchmark called {name!r}.",
                         did_you_mean(str(name), [*(p.name for p in PRESETS), *{p.benchmark for p in PRESETS}]))
    if as_json:
        return print_json([p.to_json() for p in shown])
    print(about(shown[0]) if name == shown[0].name else table(shown))


def about(preset: PublishedSetting) -> str:
    """All of one setting."""
    options = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in preset.options.items())
    lines = {"recipe": preset.recipe, "options": options, "published for": preset.model, "task": preset.task,
             "source": preset.source, "note": preset.note, "cannot be reached": preset.defect}
    return "\n".join([f"{preset.name} ({preset.benchmark})", *(f"  {k:<14} {v}" for k, v in lines.items() if v),
                      *([f"  {LARGE}"] if preset.recipe else [])])


def table(shown: Sequence[PublishedSetting]) -> str:
    """One line each; parts of one benchmark with the same method share a line."""
    lines: list[str] = []
    for benchmark in dict.fromkeys(p.benchmark for p in shown):
        lines.append(benchmark)
        rows = _joined(p for p in shown if p.benchmark == benchmark)
        width = max(len(name) for name in rows)
        lines += [f"  {name:<{width}}  {'cannot be reached' if p.defect else p.model}; {p.source.partition(':')[0]}"
                  for name, p in rows.items()]
    return "\n".join([*lines, "", LARGE, "`expunge presets NAME` shows a recipe; `expunge forget MODEL --preset NAME "
                      "--out RUN` runs it."])


def _joined(shown: Iterable[PublishedSetting]) -> dict[str, PublishedSetting]:
    """`npo/tofu-forget01|05|10` -> the first of them."""
    names: dict[str, list[PublishedSetting]] = {}
    for preset in shown:
        stem = preset.name.rstrip("0123456789")
        names.setdefault(stem, []).append(preset)
    return {stem + "|".join(p.name[len(stem):] for p in group): group[0] for stem, group in names.items()}
