"""Which checks a plug-in has to pass, run one by one or all at once."""

from __future__ import annotations

import ast
import linecache
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pytest

from expunge import registry
from expunge.errors import InterruptedRun
from expunge.plugin import Card, Kind, Plugin, Spec
from expunge.registry import Entry
from expunge.terms import parse_sum

from . import attack_bed, support
from .checks import Check, invariants, promised

LONGEST = 200
"""Characters of a value that a message still shows."""


@dataclass(frozen=True)
class Case:
    """One check on one plug-in."""

    plugin: type[Plugin]
    check: Check
    args: Mapping[str, Any] = field(default_factory=dict)
    number: int = -1
    """The place of the promise in `must_show`; -1 for what holds for the whole kind."""

    @property
    def id(self) -> str:
        number = f"-{self.number}" if self.number >= 0 else ""
        return f"{self.plugin.card.name}{number}-{self.check.name}"

    def __call__(self) -> None:
        """Run the check; a failure is an AssertionError that names plug-in, check and figures."""
        __tracebackhide__ = True
        with registered(self.plugin), support.may_train(self.check.trains):
            try:
                self.check.run(self.plugin, **self.args)
            except InterruptedRun:  # Ctrl-C, not a failure
                raise
            except (Exception, pytest.fail.Exception) as error:
                raise AssertionError(self._message(error)) from error

    def _message(self, error: BaseException) -> str:
        args = ", ".join(f"{name}={value!r}" for name, value in self.args.items())
        lines = [f"{self.plugin.card.kind} {self.plugin.card.name} fails the check {self.check.name}({args}): "
                 f"{self.check.about}", figures(error)]
        return "\n".join(lines)


def figures(error: BaseException) -> str:
    """The error's message; for an assertion without one, its text and the values of the names in it."""
    if not isinstance(error, (AssertionError, pytest.fail.Exception)):
        return f"It raised {type(error).__name__}: {error}"
    if str(error):
        return str(error)
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return "" if at is None else _assertion(at)


def _assertion(at: TracebackType) -> str:
    """The assert statement that failed in this frame, and what its names stand for."""
    lines = linecache.getlines(at.tb_frame.f_code.co_filename)
    text = ""
    for end in range(at.tb_lineno, min(at.tb_lineno + 8, len(lines)) + 1):
        text = textwrap.dedent("".join(lines[at.tb_lineno - 1: end])).strip()
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        names = dict.fromkeys(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        known = {name: repr(at.tb_frame.f_locals[name]) for name in names if name in at.tb_frame.f_locals}
        return "\n".join([text, *(f"  {name} = {value}" for name, value in known.items() if len(value) <= LONGEST)])
    return text


@dataclass(frozen=True)
class _Given(Entry):
    """A registry entry of a class at hand."""

    plugin: type[Plugin] = Plugin

    def load(self) -> type[Plugin]:
        return self.plugin


def _parts(plugin: type[Plugin]) -> tuple[str, ...]:
    """The probes of a metric or the terms of a preset, as `Entry.parts`."""
    probes = [name for name, _ in getattr(plugin.card, "probes", ())]
    expanded = getattr(plugin, "expands_to", "")
    terms = [call.name for stage in parse_sum(expanded) for call in stage] if expanded else []
    return tuple(dict.fromkeys((*probes, *terms)))


_seen: dict[str, type[Plugin]] = {}


@contextmanager
def registered(plugin: type[Plugin]) -> Iterator[None]:
    """Recipes find this class by the name on its card, whether it is installed or not."""
    card, entries = plugin.card, registry.entries()
    installed = entries.get(card.name)
    if _seen.setdefault(card.name, plugin) is not plugin:  # what was made by another class of this name
        _seen[card.name] = plugin
        support.forget_runs()
        attack_bed.forget_attacks()
    if installed is not None and installed.load() is plugin:
        yield
        return
    entries[card.name] = _Given(card.name, card.kind, card.summary, plugin.__module__, plugin.__qualname__,
                                card.model_needs, _parts(plugin), plugin=plugin)
    try:
        yield
    finally:
        if installed is None:
            del entries[card.name]
        else:
            entries[card.name] = installed


def cases(plugin: type[Plugin], fast: bool | None = None) -> list[Case]:
    """What holds for every plug-in of its kind, then what its card promises.

    Args:
        fast: True leaves out the checks that train a model, False leaves out all others.
    """
    found = [Case(plugin, check) for check in invariants(plugin)]
    found += [Case(plugin, check, prop.args, number) for number, (prop, check) in enumerate(promised(plugin))]
    return [case for case in found if fast is None or case.check.trains is not fast]


def check_plugin(plugin: type[Plugin], *, fast: bool | None = None) -> None:
    """Run every check of a plug-in class of any kind; it need not be installed.

    Args:
        plugin: a class with a `card`.
        fast: True leaves out the checks that train a model, False leaves out all others.

    A check that skips does not hide the others: the test is skipped only where none of them failed.

    Raises:
        AssertionError: with every check that failed, and the figures.
    """
    problems, skipped = [], []
    _check_class(plugin)
    todo = cases(plugin, fast)
    for case in todo:
        try:
            case()
        except AssertionError as error:
            problems.append(str(error))
        except pytest.skip.Exception as reason:
            skipped.append(f"{case.check.name}: {reason}")
    if problems:
        raise AssertionError("\n\n".join(
            [f"{plugin.card.name} fails {len(problems)} of {len(todo)} checks.", *problems]))
    if skipped:
        pytest.skip(f"{plugin.card.name} passes, with {len(skipped)} of {len(todo)} checks skipped: "
                    f"{'; '.join(skipped)}")


def _check_class(plugin: Any) -> None:
    """Raises AssertionError for what is no class of a plug-in, or has no card or no options."""
    called = getattr(plugin, "__name__", repr(plugin))
    assert isinstance(plugin, type) and issubclass(plugin, Plugin), (
        f"{called} is no class of a plug-in: derive it from the class of its kind, such as Objective or Metric")
    assert isinstance(getattr(plugin, "card", None), Card), f"{called} has no card: write card = Card(name=..., ...)"
    assert issubclass(plugin.Spec, Spec), f"{called}.Spec is no Spec: derive the class of its options from expunge's"


def contract_cases(*plugins: type[Plugin], kinds: tuple[Kind, ...] = (), fast: bool | None = None) -> list[Any]:
    """The same checks one by one, for `pytest.mark.parametrize("case", contract_cases(MyPlugin))`; call each case.

    Args:
        plugins: classes, installed or not.
        kinds: adds all installed plug-ins of these kinds.
        fast: True leaves out the checks that train a model, False leaves out all others.
    """
    every = [*plugins, *(entry.load() for entry in registry.of_kind(*kinds))] if kinds else plugins
    return [pytest.param(case, id=case.id) for plugin in every for case in cases(plugin, fast)]

