"""Contrast: the rows that differ most come first, with both answers; and what is known of the inside of the models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from expunge.report.text import number


def differences(data: dict[str, Any], a: str, b: str, split: str = "forget",
                measure: str = "probability") -> list[tuple[int, float]]:
    """(row, A - B) of rows that both were asked, the largest difference first."""
    first, second = (data["values"][measure][key] for key in (a, b))
    pairs = [(i, x - y) for i, (x, y) in enumerate(zip(first, second, strict=True))
             if x is not None and y is not None and (not split or data["rows"]["split"][i] == split)]
    return sorted(pairs, key=lambda pair: (-abs(pair[1]), pair[0]))


def top(page: Any) -> list[int]:
    return [int(n) for n in page.eval_on_selector_all("#top article", "all => all.map(a => a.dataset.row)")]


def listed(page: Any) -> list[int]:
    return [int(n) for n in page.eval_on_selector_all("#rows tr[data-row]", "all => all.map(a => a.dataset.row)")]


def test_the_three_rows_that_differ_most_come_first(page: Any, data: dict[str, Any]) -> None:
    three = differences(data, "1", "2")[:3]
    assert top(page) == [row for row, _ in three]
    row, far = three[0]
    card = page.locator("#top article").first
    said = card.inner_text()
    assert data["rows"]["prompt"][row] in said and f"Reference: {data['rows']['reference'][row]}" in said
    for slot, key in (("a", "1"), ("b", "2")):
        side = card.locator(f".slot-{slot}").inner_text()
        assert data["texts"][data["answers"][key][row]] in side
        assert f"probability {number(data['values']['probability'][key][row])}" in side
    assert f"{number(abs(far))} higher in {'A' if far > 0 else 'B'}" in said


def test_they_are_in_sight_when_contrast_is_chosen(page: Any) -> None:
    """What a newcomer looks for is on the screen after one click, without scrolling."""
    page.click(".bar nav a[href='#contrast']")
    for card in page.locator("#top article").all():
        box = card.bounding_box()
        assert box["y"] > 50 and box["y"] + box["height"] < 900


def test_words_that_tell_are_marked(page: Any, data: dict[str, Any]) -> None:
    row = top(page)[0]
    marks = page.locator("#top article").first.locator("mark").all_inner_texts()
    assert marks and all(m in data["rows"]["reference"][row] and m not in data["rows"]["prompt"][row] for m in marks)


def test_all_rows_are_sorted_by_what_changed_most(page: Any, data: dict[str, Any]) -> None:
    expected = [row for row, _ in differences(data, "1", "2")]
    assert listed(page) == expected and len(expected) == 24
    page.click("#rows .sort[data-key=a]")
    values = data["values"]["probability"]["1"]
    assert [values[row] for row in listed(page)] == sorted((values[r] for r in expected), reverse=True)
    page.keyboard.press("Enter")
    assert [values[row] for row in listed(page)] == sorted(values[r] for r in expected)
    assert page.get_attribute("#rows th:has(.sort[data-key=a])", "aria-sort") == "ascending"
    assert top(page) == expected[:3]


def test_any_two_models_are_contrasted(page: Any, data: dict[str, Any]) -> None:
    page.select_option("#a", "original")
    page.select_option("#b", "retrained")
    assert top(page) == [row for row, _ in differences(data, "original", "retrained")[:3]]
    page.select_option("#a", "retrained")
    assert "do not differ" in page.inner_text("#top") and "24 differ by less than 0.01" in page.inner_text("#summary")


def test_rows_of_other_sets_and_more_of_them(page: Any, data: dict[str, Any]) -> None:
    page.select_option("#split", "retain")
    assert listed(page) == [row for row, _ in differences(data, "1", "2", "retain")]
    page.select_option("#split", "")
    expected = [row for row, _ in differences(data, "1", "2", "")]
    assert listed(page) == expected[:50] and page.inner_text("#more") == "Show 10 more of 60 rows"
    page.click("#more")
    assert listed(page) == expected and not page.is_visible("#more")


def test_rows_are_searched(page: Any, data: dict[str, Any]) -> None:
    page.fill("#query", "mara book 2")
    wanted = [row for row, _ in differences(data, "1", "2") if "Mara" in data["rows"]["prompt"][row]
              and "book 2" in data["rows"]["prompt"][row]]
    assert listed(page) == wanted and len(wanted) == 1
    page.fill("#query", "nothing like it")
    assert "No row has these words" in page.inner_text("#rows")


def test_answers_alone_are_compared(page: Any, data: dict[str, Any]) -> None:
    page.select_option("#measure", "answers")
    first, second = (data["answers"][key] for key in "12")
    differ = sum(first[i] != second[i] for i, s in enumerate(data["rows"]["split"]) if s == "forget")
    assert 0 < differ < 24
    assert f"24 rows: {24 - differ} have the same answer" in page.inner_text("#summary")
    best = top(page)[0]
    assert first[best] != second[best] and page.is_hidden("#against")


def test_a_row_opens_from_the_keyboard(page: Any, data: dict[str, Any]) -> None:
    row = listed(page)[1]
    page.focus(f"#rows tr[data-row='{row}'] button")
    page.keyboard.press("Enter")
    button = page.locator(f"#rows tr[data-row='{row}'] button")
    assert button.get_attribute("aria-expanded") == "true"
    opened = page.locator(f"#{button.get_attribute('aria-controls')}")
    assert page.evaluate("document.activeElement.getAttribute('aria-expanded')") == "true"
    for key in ("1", "2", "original", "retrained"):
        assert data["texts"][data["answers"][key][row]] in opened.inner_text()
    assert "loss: A" in opened.inner_text() and data["rows"]["id"][row] in opened.inner_text()
    page.keyboard.press("Enter")
    assert opened.count() == 0


def test_a_row_that_is_chosen_is_ringed_in_every_drawing(page: Any) -> None:
    assert page.locator(".ring").count() == 0
    page.locator("#rows tr[data-row] button").first.click()
    assert page.locator("#against .ring").count() == 1 and page.locator("#inside .ring").count() == 2
    assert "Ringed: " in page.inner_text("#inside")


def test_a_click_in_a_drawing_chooses_the_row(page: Any, data: dict[str, Any]) -> None:
    drawing = page.locator("#inside figure").nth(1).locator("svg[role=img]")
    drawing.scroll_into_view_if_needed()
    box = drawing.bounding_box()
    drawn = page.locator("#inside figure").nth(1).locator(".plot .dots.forget").get_attribute("d")
    place = [float(v) + 3 for v in drawn.partition("l")[0][1:].split()]
    page.mouse.move(box["x"] + place[0], box["y"] + place[1])
    assert page.locator("#inside figure").nth(1).locator("figcaption").inner_text().startswith("forget: In which town")
    page.mouse.click(box["x"] + place[0], box["y"] + place[1])
    row = page.evaluate("state.row")
    assert data["rows"]["split"][row] == "forget" and page.locator("#inside .ring").count() == 2


@pytest.mark.parametrize("split", ["forget", "retain", "holdout"])
def test_similarity_by_layer(page: Any, data: dict[str, Any], split: str) -> None:
    page.select_option("[data-inside=set]", split)
    figure = page.locator("#inside figure").first
    figure.locator("summary").click()
    rows = [line.split("\t") for line in figure.locator("table").inner_text().splitlines() if line[:1].isdigit()]
    pairs = data["inside"]["cka"][split]
    assert [r[0] for r in rows] == ["0", "1", "2"]
    assert [r[1] for r in rows] == [number(v) for v in pairs["1|2"]]
    assert [r[2] for r in rows] == [number(v) for v in pairs["1|original"]]
    page.select_option("#b", "1")
    assert set(figure.locator("tbody td:nth-child(2)").all_inner_texts()) == {"1.000"}


def test_weights_part_by_part(page: Any, data: dict[str, Any]) -> None:
    told = page.locator("#inside table:has(caption:has-text('Change of weights'))")
    lines = told.locator("tbody tr").all_inner_texts()
    assert [line.split()[:2] for line in lines] == [["block", str(i)] for i in range(3)]
    assert [line.split()[-2:] for line in lines] == [
        [number(data["inside"]["weights"][key][i][1]) for key in "12"] for i in range(3)]


def test_hidden_states_of_another_layer(page: Any, data: dict[str, Any], unfold: Callable[[Any], None]) -> None:
    figure = page.locator("#inside figure").nth(1)
    before = figure.locator(".plot .dots.forget").get_attribute("d")
    assert figure.locator(".plot .dots").count() == 3 and "% of the variance" in figure.inner_text()
    page.select_option("[data-inside=layer]", "0")
    assert figure.locator(".plot .dots.forget").get_attribute("d") != before
    unfold(figure.locator("details"))
    assert figure.locator("tbody tr").count() == len(data["inside"]["map"]["0"]["points"]["1"]) == 60
