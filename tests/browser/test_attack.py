"""Attack: the membership threshold, curves of relearning, and the rows that come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from expunge.comparator.membership import attack_score, rates, strongest, thresholds
from expunge.report.text import number


def sides(data: dict[str, Any], key: str, statistic: str, control: str) -> tuple[list[float], list[float]]:
    """Values of forget rows of a model, and of what they are told from."""
    def of(model: str, split: str) -> list[float]:
        values = data["member"]["values"][statistic][model]
        return [v for v, s in zip(values, data["rows"]["split"], strict=True) if s == split and v is not None]

    return of(key, "forget"), of(key, "holdout") if control == "holdout" else of(control, "forget")


def counts(page: Any, slot: int) -> list[list[int]]:
    """Flagged and not flagged: forget rows, control."""
    table = page.locator("#membership table.counts").nth(slot)
    return [[int(cell) for cell in row.locator("td").all_inner_texts()] for row in table.locator("tbody tr").all()]


def expected(data: dict[str, Any], key: str, at: float, *, statistic: str = "confidence", control: str = "retrained",
             above: bool = True) -> list[list[int]]:
    made = []
    for values in sides(data, key, statistic, control):
        flagged = sum(v >= at if above else v <= at for v in values)
        made.append([flagged, len(values) - flagged])
    return made


def all_thresholds(data: dict[str, Any], statistic: str = "confidence", control: str = "retrained") -> list[float]:
    """The places of the slider: over both models and what they are told from."""
    a, b = (sides(data, key, statistic, control) for key in "12")
    return thresholds([*a[0], *b[0]], [*a[1], *b[1]])


def test_the_slider_moves_the_counts_from_the_keyboard(page: Any, data: dict[str, Any]) -> None:
    places = all_thresholds(data)
    page.focus("#threshold")
    page.keyboard.press("Home")
    assert counts(page, 0) == [[24, 0], [24, 0]]
    for _ in range(60):
        page.keyboard.press("ArrowRight")
    assert page.input_value("#threshold") == "60" and page.inner_text("#threshold-shown") == number(places[60])
    assert [counts(page, 0), counts(page, 1)] == [expected(data, key, places[60]) for key in "12"]
    flagged = expected(data, "1", places[60])[0][0]
    assert f"A: {flagged} of 24 forget rows flagged" in page.get_attribute("#threshold", "aria-valuetext")
    page.keyboard.press("End")
    assert counts(page, 0)[0][0] + counts(page, 1)[0][0] == 1


@pytest.mark.parametrize("statistic", ["loss", "entropy", "confidence"])
@pytest.mark.parametrize("control", ["retrained", "holdout"])
def test_every_statistic_beside_every_control(page: Any, data: dict[str, Any], statistic: str, control: str) -> None:
    page.select_option("[data-attack=statistic]", statistic)
    page.select_option("[data-attack=control]", control)
    page.select_option("[data-attack=above]", "false")
    page.fill("#threshold", "90")
    at = all_thresholds(data, statistic, control)[90]
    assert [counts(page, 0), counts(page, 1)] == [
        expected(data, key, at, statistic=statistic, control=control, above=False) for key in "12"]
    fpr, fnr = rates(*sides(data, "2", statistic, control), at, False)
    assert page.inner_text("[data-score=b]") == number(attack_score(fpr, fnr))


def test_the_strongest_threshold_is_that_of_python(page: Any, data: dict[str, Any]) -> None:
    page.select_option("#b", "4")
    for slot, key in (("a", "1"), ("b", "4")):
        best = strongest(*sides(data, key, "confidence", "retrained"))
        assert page.inner_text(f"[data-strongest={slot}]") == number(best)
        page.click(f"[data-best={slot}]")
        assert page.inner_text(f"[data-score={slot}]") == number(best)
        assert page.evaluate("document.activeElement.id") == "threshold"
    assert 0 < strongest(*sides(data, "4", "confidence", "retrained")) < 1


def test_it_begins_where_a_is_told_best(page: Any) -> None:
    assert page.inner_text("[data-score=a]") == page.inner_text("[data-strongest=a]")


def test_a_model_is_not_told_from_itself(page: Any) -> None:
    page.select_option("#a", "retrained")
    assert page.inner_text("[data-strongest=a]") == "0.000"


def test_flagged_rows_are_listed(page: Any, data: dict[str, Any], unfold: Callable[[Any], None]) -> None:
    flagged = counts(page, 1)[0][0]
    folded = page.locator("#membership details", has_text="Flagged forget rows of B")
    assert folded.locator("summary").inner_text() == f"Flagged forget rows of B: {flagged}"
    unfold(folded)
    rows = folded.locator("tbody tr").all_inner_texts()
    assert len(rows) == flagged and rows[0].startswith("In which town")
    numbers = [float(row.split("\t")[1].replace("−", "-")) for row in rows]
    assert numbers == sorted(numbers, reverse=True)


def test_curves_of_relearning(page: Any, data: dict[str, Any], unfold: Callable[[Any], None]) -> None:
    page.select_option("#curve-score", "forget.probability")
    figure = page.locator("#relearning figure")
    assert figure.locator("path.line.a, path.line.b").count() >= 2
    unfold(figure.locator("details").first)
    rows = [line.split("\t") for line in figure.locator("table").inner_text().splitlines()[1:]]
    mine = [row[1:] for row in rows if row[0].startswith("1: ")]
    points = data["back"]["curves"]["forget.probability"]["relearn"]["1"]
    assert mine == [[f"{p[0]:g}", number(p[1])] for p in points] and [p[0] for p in points] == [0, 5, 20]


def test_which_rows_come_back(page: Any, data: dict[str, Any]) -> None:
    back = data["back"]["values"]["probability"]["relearn(steps=20)"]
    before, original = data["values"]["probability"]["1"], data["values"]["probability"]["original"]
    control = dict(back["retrained"])
    came = [row for row, v in back["1"] if original[row] - before[row] > 0.05 and v > control[row]
            and v - before[row] >= (original[row] - before[row]) / 2]
    assert f"A: {len(came)} of 24 rows come back." in page.inner_text("#back-summary") and 0 < len(came) < 24
    first = page.locator("#back tbody tr").first
    assert "comes back" in first.inner_text() and "→" in first.inner_text()
    page.select_option("#back-attack", "relearn(steps=5)")
    assert f"A: {len(came)} of" not in page.inner_text("#back-summary")


def test_answers_under_the_attack_are_shown(page: Any, data: dict[str, Any]) -> None:
    button = page.locator("#back tbody tr button").first
    row = int(button.get_attribute("data-row"))
    button.focus()
    page.keyboard.press("Enter")
    said = dict(data["back"]["answers"]["relearn(steps=20)"]["1"])[row]
    opened = page.locator("#back tr.open")
    assert data["texts"][said] in opened.inner_text() and "A under the attack" in opened.inner_text()
    assert page.evaluate("document.activeElement.dataset.row") == str(row)
