"""Promises about facts that spread to contexts where they do not belong."""

from __future__ import annotations

import math

import pytest

from expunge.data.themes import leading_to, on_theme
from expunge.metrics.base import Evidence, Metric
from expunge.models.facts import fact_logps
from expunge.probes.base import Probe
from expunge.records.observation import Observations, Row
from expunge.records.task import Example

from ..support import memoriser, small_task, weights
from .base import check


@check
def themes_are_alike(plugin: type[Probe]) -> None:
    """Contexts ask the same of others, whose fact is another; a row with none, or without a fact, has no row."""
    task = small_task()
    pool = task.retain + task.holdout
    for row in task.forget[:7]:
        found = on_theme(row, pool, 3)
        assert {c.id.rsplit("/", 1)[1] for c in found} <= {row.id.rsplit("/", 1)[1]}, row.id
        assert all(c.entity != row.entity and c.short_answer != row.short_answer for c in found)
    assert sum(bool(on_theme(row, pool, 3)) for row in task.forget) >= len(task.forget) / 2
    odd = [Example(id="a", prompt="Quite another matter?", answer="Yes.", short_answer="Yes"),
           task.forget[0].model_copy(update={"short_answer": ""}),
           task.forget[0].model_copy(update={"short_answer": "nowhere"})]
    assert plugin().observe(memoriser(), odd, task) == []
    led = leading_to(task.forget[0], "XX")
    assert led is not None and led.answer.endswith("XX") and led.short_answer == "XX"


@check
def primes_by_hand(plugin: type[Probe]) -> None:
    """Own and themed log-probabilities are sums over the fact's tokens, one row at a time, whatever the order."""
    task, before = small_task(), weights(memoriser())
    rows = plugin(contexts=2).observe(memoriser(), task.forget[:6], task)
    again = plugin(contexts=2).observe(memoriser(), task.forget[5::-1], task)
    assert len(rows) >= 3 and [r["id"] for r in rows] == [r["id"] for r in again][::-1]
    by_id = {r.id: r for r in task.forget + task.retain + task.holdout}
    for row, other in zip(rows, again[::-1], strict=True):
        example = by_id[row["id"]]
        ends = [leading_to(example), *(leading_to(by_id[c], example.short_answer) for c in row["contexts"])]
        slow = [fact_logps(memoriser(), [end])[0] for end in ends if end is not None]
        assert [row["own"], *row["themed"]] == pytest.approx(slow, abs=1e-4)
        assert other["themed"] == pytest.approx(row["themed"], abs=1e-4) and 0 < len(row["themed"]) <= 2
        assert row["own"] > -0.7 > max(row["themed"])  # known by heart where it belongs, and nowhere else
    # The whole answer is likely, so the fact alone is at least as likely.
    full = task.forget[0].model_copy(update={"short_answer": task.forget[0].answer})
    ending = leading_to(task.forget[0])
    assert ending and fact_logps(memoriser(), [full])[0] <= fact_logps(memoriser(), [ending])[0] + 1e-4
    assert all(bool((p == before[n]).all()) for n, p in weights(memoriser()).items())


@check
def spread_by_hand(metric: type[Metric]) -> None:
    """Two rows with known ratios, in both kinds of contexts; the remark has the probabilities."""
    def seen(own: float, *themed: float) -> Observations:
        def row(id: str, shift: float) -> Row:
            return {"id": id, "entity": id, "group": "", "form": "answer", "index": 0, "own": math.log(own) + shift,
                    "themed": [math.log(t) + shift for t in themed], "contexts": ["x"] * len(themed)}
        return Observations({("priming", "forget"): [row("a", 0.0), row("b", -math.log(10))]})

    evidence = Evidence(seen(0.6, 0.02, 0.04), seen(0.06, 0.01, 0.01))
    wanted = {("priming", "ratio"): math.log10(3), ("memory", "ratio"): 1.0,
              ("priming", "after"): math.log10(0.03) - 0.5, ("memory", "after"): math.log10(0.6) - 0.5}
    for (of, form), value in wanted.items():
        score = metric(of=of, form=form).score(evidence, "forget", resamples=20)
        assert score.value == pytest.approx(value, abs=1e-9), (of, form)
        assert score.remark and "0.033 to 0.33 in its own context" in score.remark
    lone = metric().score(Evidence(evidence.subject), "forget")
    assert lone.value is None and "--original" in (lone.unavailable or "")
