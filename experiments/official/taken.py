"""Single functions and methods of a file, run without importing the file."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any


def taken(file: Path, name: str, **given: Any) -> Callable[..., Any]:
    """A function (`loss`) or a method without its class (`Trainer.compute_loss`), defined in `file`.

    Imports of the file that fail are left out. Its other functions, and constants that can be computed, are there too.

    Args:
        given: names to define before, in place of the file's own.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"{file} does not exist: is this a checkout of the repository?") from None
    space: dict[str, Any] = {"__name__": f"official_{file.stem}"}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.Assign):
            _run([node], space)
    space |= given
    owner, _, method = name.rpartition(".")
    if owner:
        found = [n for c in tree.body if isinstance(c, ast.ClassDef) and c.name == owner
                 for n in c.body if isinstance(n, ast.FunctionDef) and n.name == method]
        if not found:
            raise SystemExit(f"{file} has no {name}.")
        exec(compile(ast.Module(found, []), str(file), "exec"), space)
    if method not in space:
        raise SystemExit(f"{file} has no {name}.")
    made: Callable[..., Any] = space[method]
    return made


def _run(nodes: list[ast.stmt], space: dict[str, Any]) -> None:
    """Run statements of a module; what cannot run here is left out, and missed only where it is used."""
    try:
        exec(compile(ast.Module(nodes, []), "official", "exec"), space)
    except Exception:
        return
