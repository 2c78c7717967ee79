"""Authors of plug-ins outside the package check them with three lines, and a broken one fails by the name of the check.

None of the classes below is installed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import Field
from torch import Tensor

from expunge import plugin, registry
from expunge.attacks.base import Ask, Attack, AttackCard, AttackContext, View, rewriting
from expunge.errors import InterruptedRun
from expunge.methods._lib.weighted_likelihood import WeightedLikelihood
from expunge.methods.base import WeightedSpec
from expunge.metrics.base import Evidence, MetricCard, RowMetric
from expunge.models.subject import Subject
from expunge.plugin import Card, Property
from expunge.records.task import SPLITS, Example, Split
from expunge.testing import Case, attack_bed, check_plugin, contract_cases
from expunge.testing.cases import registered
from expunge.testing.checks import CHECKS, Check


class FirstWord(RowMetric):
    """The share of answers that begin with the word that the reference begins with."""

    card = MetricCard(
        name="first_word", kind="metric", summary="share of answers that begin with the right word",
        paper="none; made up for this test", formula="mean 1[first word said = first word of the reference]",
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text", probes=(("generation", SPLITS),),
        per_split=True, model_needs=frozenset({"generate"}),
    )
    must_show = (
        Property("value", {"world": "perfect", "split": "forget", "is_": 1.0}, "always right"),
        Property("value", {"world": "uniform", "split": "forget", "is_": 0.0}, "nothing is said"),
        Property("orders", {"worlds": ("original", "collapsed"), "split": "forget"}, "collapse is seen"),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        return {row["id"]: float(row["text"].split()[:1] == row["reference"].split()[:1])
                for row in evidence.rows("generation", split)}


class LastRow(FirstWord):
    """Broken: it keeps the last row alone."""

    card = MetricCard(
        name="last_row", kind="metric", summary="whether the last answer begins with the right word",
        paper="none; made up for this test", formula="1[first word said = first word of the reference]",
        higher_is="knows", range=(0.0, 1.0), ideal="reference", access="text", probes=(("generation", SPLITS),),
        per_split=True, model_needs=frozenset({"generate"}),
    )

    def values(self, evidence: Evidence, split: Split) -> dict[str, float]:
        found = list(evidence.rows("likelihood", split, "answer"))
        return {found[-1]["id"]: sum(found[-1]["logp"]) / -99}


class Polite(Attack):
    """Ask with a word in front of every question."""

    class Spec(plugin.Spec):
        word: str = Field("Please:", description="What the question begins with; empty does nothing.")

    card = AttackCard(
        name="polite", kind="attack", access="text", family="prompt:paraphrase", model_needs=frozenset({"prompt"}),
        summary="ask politely, with a word in front of the question", paper="none; made up for this test",
        formula="p(. | word, prompt)", defaults="one word",
    )
    must_show = (
        Property("keeps_the_contract", {}, "only prompts change"),
        Property("leaves_no_trace", {"options": {"word": ""}}, "nothing is added"),
        Property("still_shows", {"from_": "original"}, "one word hides little"),
        Property("finds_nothing", {}, "a retrained model has nothing to say"),
    )

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        ask(View(self.text(), subject, rewriting(context, self._ask)))

    def _ask(self, row: Example) -> Example:
        prompt = f"{self.spec.word} {row.prompt}" if self.spec.word and row.prompt else row.prompt
        return row.model_copy(update={"prompt": prompt})


class Careless(Polite):
    """Broken: it leaves a hook on the model that it was lent."""

    card = AttackCard(
        name="careless", kind="attack", access="text", family="prompt:paraphrase", model_needs=frozenset({"prompt"}),
        summary="ask politely, and leave a hook behind", paper="none; made up for this test",
        formula="p(. | word, prompt)", defaults="one word",
    )
    handles: list[Any] = []

    def run(self, subject: Subject, context: AttackContext, ask: Ask) -> None:
        self.handles.append(subject.model.register_forward_hook(lambda module, args, out: None))
        super().run(subject, context, ask)


class Backwards(WeightedLikelihood):
    """Broken: the sign of its gradient is wrong, so that it teaches what it should make the model forget."""

    Spec = WeightedSpec
    card = Card(
        name="backwards", kind="objective", summary="gradient ascent with the wrong sign",
        paper="none; made up for this test", formula="L = -(1/n_tokens) * sum_t log p_t", defaults="none",
        model_needs=frozenset({"logp"}),
    )
    must_show = (
        Property("reduces_to", {"other": "ga", "at": "moved"}, "every token weighs 1"),
        Property("forgets", {}, "the loss of forget answers grows"),
    )

    def weight(self, logp_N: Tensor, reference_N: Tensor | None) -> Tensor:
        return -logp_N.exp().pow(0)


@pytest.mark.parametrize("case", contract_cases(FirstWord))
def test_a_metric(case: Case) -> None:
    case()


@pytest.mark.trains
@pytest.mark.parametrize("case", contract_cases(Polite))
def test_an_attack(case: Case) -> None:
    case()


def failure(broken: type[plugin.Plugin], fast: bool | None = None) -> str:
    with pytest.raises(AssertionError) as failed:
        check_plugin(broken, fast=fast)
    return str(failed.value)


def broken_card(**wrong: Any) -> type[plugin.Plugin]:
    return type("Broken", (FirstWord,), {"__doc__": "One.", "card": dataclasses.replace(FirstWord.card, **wrong)})


@pytest.mark.parametrize(("broken", "says"), [
    (broken_card(paper=""), "card.paper is empty"), (broken_card(summary="With a full stop."), "card.summary ends"),
    (broken_card(summary="short"), "card.summary has 5 characters"),
    (broken_card(conflicts=frozenset({"nobody"})), "card.conflicts names what does not exist: nobody"),
    (broken_card(model_needs=frozenset({"luck"})), "card.model_needs names what does not exist: luck"),
    (broken_card(needs=["retain"]), "card.needs is a list, not a frozenset"),
    (type("Broken", (FirstWord,), {"space": {"speed": ("log", 1, 2)}}), "space names what is no option of Spec: spe"),
    (type("Broken", (FirstWord,), {"must_show": (Property("luck", {}, "why"),)}), "promises what no check covers: lu"),
    (type("Broken", (FirstWord,), {"card": None}), "Broken has no card"),
    (type("Broken", (FirstWord,), {"Spec": dict}), "Broken.Spec is no Spec"),
    (int, "int is no class of a plug-in")])
def test_a_failure_names_the_field_that_is_wrong(broken: Any, says: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(says)):
        check_plugin(broken, fast=True)


@pytest.mark.trains
def test_a_wrong_sign_fails() -> None:
    said = failure(Backwards)
    assert "backwards fails 2 of" in said, said
    assert "objective backwards fails the check reduces_to(other='ga', at='moved')" in said and "-1" in said
    assert "objective backwards fails the check forgets()" in said


def test_a_metric_that_depends_on_the_order_of_rows_fails() -> None:
    said = failure(LastRow)
    assert "metric last_row fails the check row_order_changes_nothing()" in said and "1.0e-12" in said, said


@pytest.fixture
def unhooked() -> Iterator[None]:
    yield
    for handle in Careless.handles:
        handle.remove()


@pytest.mark.trains
def test_an_attack_that_leaves_a_hook_fails(unhooked: None) -> None:
    said = failure(Careless)
    assert "attack careless fails the check keeps_the_contract()" in said and "_forward_hooks" in said, said
    assert attack_bed.original() is not None


def test_nothing_stays_registered() -> None:
    for case in contract_cases(FirstWord, fast=True):
        case.values[0]()
    assert not {"first_word", "polite", "careless", "backwards", "last_row"} & registry.entries().keys()


def test_needs_of_its_probes_count() -> None:
    """Else an outside metric that reads generations would be taken for one that serves classifiers."""
    with registered(FirstWord):
        assert registry.model_needs("first_word") == registry.model_needs("rouge_l") >= {"generate", "prompt"}


def _skips(plugin: type[plugin.Plugin]) -> None:
    pytest.skip("no such device")


def _fails(plugin: type[plugin.Plugin]) -> None:
    assert 1 == 2, "one is not two"


def _stopped(plugin: type[plugin.Plugin]) -> None:
    raise InterruptedRun("Interrupted.")


def _passes(plugin: type[plugin.Plugin]) -> None:
    pass


def check_with(monkeypatch: pytest.MonkeyPatch, *runs: Any) -> None:
    found = [Case(FirstWord, Check(run.__name__, run)) for run in runs]
    monkeypatch.setattr("expunge.testing.cases.cases", lambda plugin, fast=None: found)
    check_plugin(FirstWord)


def test_a_skip_hides_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    for runs in ((_skips, _fails), (_fails, _skips)):
        with pytest.raises(AssertionError, match="fails 1 of 2 checks"):
            check_with(monkeypatch, *runs)
    with pytest.raises(pytest.skip.Exception, match="1 of 2 checks skipped: _skips: no such device"):
        check_with(monkeypatch, _skips, _passes)


def test_ctrl_c_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InterruptedRun):
        check_with(monkeypatch, _fails, _stopped)


def test_a_check_that_trains_says_so() -> None:
    """Else contract-fast would not be fast."""
    hidden = Case(FirstWord, Check("hidden", lambda plugin: CHECKS["forgets"].run(registry.load("npo"))))
    with pytest.raises(AssertionError, match="does not declare it"):
        hidden()
