"""Functions, methods and statements of a file, run without importing the file.

Imports of the file that fail are left out, and so is everything that cannot be defined without them: it is missed only
where it is used.
"""

from __future__ import annotations

import ast
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

PARTS = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef | ast.Assign


def checkout(folder: Path, repository: str) -> Path | None:
    """Where the code of a repository lies; None where it is not there."""
    owner, name = repository.split("/")
    for place in (folder / f"{owner}+{name}", folder / name):
        if place.is_dir():
            return place
    return folder if folder.name in (name, f"{owner}+{name}") else None


def check_commit(place: Path, commit: str) -> None:
    """Refuse a git checkout of another commit; a folder without git is taken at its word."""
    if not (place / ".git").exists():
        return
    found = subprocess.run(["git", "-C", str(place), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    if found.stdout.strip() != commit:
        raise SystemExit(f"{place} is at {found.stdout.strip()}. Check out {commit}, which the module names.")


def taken(file: Path, name: str, **given: Any) -> Callable[..., Any]:
    """A function or class that `file` defines at its top.

    Args:
        given: names in place of what the file imports or defines.
    """
    space = _defined(file, given)
    if name not in space:
        raise SystemExit(f"{file} defines no {name}, or needs for it what is not installed.")
    found: Callable[..., Any] = space[name]
    return found


def instance(file: Path, name: str, given: dict[str, Any] | None = None, **attributes: Any) -> Any:
    """An object of a class of `file` without its bases and without a call of `__init__`, with these attributes."""
    found = [node for node in _tree(file).body if isinstance(node, ast.ClassDef) and node.name == name]
    if not found:
        raise SystemExit(f"{file} has no class {name}.")
    alone = ast.ClassDef(name=name, bases=[], keywords=[], body=found[0].body, decorator_list=[], type_params=[])
    space = _defined(file, given or {})
    exec(compile(ast.fix_missing_locations(ast.Module([alone], [])), str(file), "exec"), space)
    made = object.__new__(space[name])
    vars(made).update(attributes)
    return made


def statements(file: Path, first: str, count: int) -> CodeType:
    """`count` statements in a row, of which the first begins with `first`: for `exec` with the names that they use."""
    for node in ast.walk(_tree(file)):
        for body in (getattr(node, field, None) for field in ("body", "orelse", "finalbody")):
            for at, one in enumerate(body if isinstance(body, list) else []):
                if ast.unparse(one).startswith(first):
                    return compile(ast.Module(body[at: at + count], []), str(file), "exec")
    raise SystemExit(f"{file} has no statement {first!r}.")


def _tree(file: Path) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their patterns without r""
            return ast.parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"{file} does not exist: is this a checkout of the repository?") from None


def _defined(file: Path, given: dict[str, Any]) -> dict[str, Any]:
    """The names that a file defines at its top. Calls at the top, which could read files, are not made."""
    space: dict[str, Any] = {"__name__": f"official_{file.stem}"}
    for node in _tree(file).body:
        calls = isinstance(node, ast.Assign) and any(isinstance(n, ast.Call) for n in ast.walk(node.value))
        if isinstance(node, PARTS) and not calls:
            try:
                exec(compile(ast.Module([node], []), str(file), "exec"), space)
            except Exception:
                continue
        space |= given
    return space
