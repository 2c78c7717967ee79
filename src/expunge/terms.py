"""Parser of terms such as `name(option=value) + name`, used for recipes, attacks and metrics."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.errors import UsageError


@dataclass(frozen=True)
class Call:
    """One term as typed."""

    name: str
    options: tuple[tuple[str, Any], ...] = ()


def with_options(name: str, given: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """`name(option=value,...)` with the options that are not the usual ones, as a task is called."""
    changed = ",".join(f"{option}={value}" for option, value in given.items() if value != usual[option])
    return f"{name}({changed})" if changed else name


def parse_sum(text: str) -> tuple[tuple[Call, ...], ...]:
    """Parse `a + b(c=1) >> d` into stages of calls. Raises UsageError with the position of the mistake."""
    if not text.strip():
        raise UsageError("The recipe is empty.", fix="Try --method \"npo + retain_nll\".")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"This is not a recipe: {text!r} (at character {error.offset}).",
                         "A recipe is a sum of names with options in brackets.",
                         'Such as "npo(beta=0.1) + retain_kl(weight=1) + lora(rank=8)".') from None
    return tuple(tuple(_calls(part, text)) for part in _split(tree, ast.RShift))


def parse_call(text: str) -> Call:
    """Parse exactly one term; dotted names such as `forget.probability` are one name."""
    stages = parse_sum(text)
    if len(stages) != 1 or len(stages[0]) != 1:
        raise UsageError(f"{text!r} is not one term.")
    return stages[0][0]


def _split(node: ast.expr, operator: type[ast.operator]) -> list[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, operator):
        return [*_split(node.left, operator), *_split(node.right, operator)]
    return [node]


def _calls(node: ast.expr, text: str) -> list[Call]:
    calls = []
    for part in _split(node, ast.Add):
        if isinstance(part, ast.Call) and not part.args:
            options = tuple((k.arg or "**", _value(k.value, text)) for k in part.keywords)
            if repeated := {name for name, _ in options if [n for n, _ in options].count(name) > 1}:
                raise UsageError(f"{ast.unparse(part)} gives {sorted(repeated)[0]} twice.", fix="Give it once.")
            calls.append(Call(_name(part.func, text), options))
        elif isinstance(part, ast.Call):
            raise UsageError(f"Options are named: {ast.unparse(part)} in {text!r} gives one without a name.",
                             fix=f"Write {_name(part.func, text)}(option=value).")
        else:
            calls.append(Call(_name(part, text)))
    return calls


def _name(node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, text)}.{node.attr}"
    raise UsageError(f"{ast.unparse(node)!r} in {text!r} is not the name of a term.",
                     "Terms are joined by +, stages by >>.")


def _value(node: ast.expr, text: str) -> Any:
    """Literal values; a bare word or a range such as 2-4 is read as text."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        pass
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        return ast.unparse(node).replace(" ", "")
    if isinstance(node, ast.List):
        return [_value(item, text) for item in node.elts]
    raise UsageError(f"{ast.unparse(node)!r} in {text!r} is not a value.",
                     "Values are numbers, words, quoted text and lists.")


def split_at_commas(text: str) -> list[str]:
    """The terms of a list, split at commas outside brackets.

    Raises:
        UsageError: a bracket is missing, or nothing stands between two commas.
    """
    found, depth, word = [], 0, ""
    for letter in text + ",":
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            found.append(word.strip())
            word = ""
        else:
            word += letter
    if depth:
        raise UsageError(f"A bracket is missing in {text!r}.", fix="Such as: scores,relearn(at=[5, 15])")
    if not all(found):
        raise UsageError(f"{text!r} has an empty entry.", "Its entries are separated by single commas.")
    return found
