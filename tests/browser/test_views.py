"""Build, Screen and the choice of A and B: filters by box, by limits and by the Pareto front, and what follows them."""

from __future__ import annotations

from typing import Any

import pytest

RUNS = ["1", "2", "3", "4"]


def shown_runs(page: Any) -> list[str]:
    return page.eval_on_selector_all("#runs tr[data-run]:not(.out)", "rows => rows.map(r => r.dataset.run)")


def chosen(page: Any) -> tuple[str, str]:
    return page.input_value("#a"), page.input_value("#b")


def figures(data: dict[str, Any]) -> dict[str, list[float]]:
    """Run -> its four figures, each so that more is better."""
    return {run: [d["choices"][0]["values"][run] * (1 if d["choices"][0]["better"] == "high" else -1)
                  for d in data["dimensions"]] for run in RUNS}


def front(data: dict[str, Any]) -> list[str]:
    merits = figures(data)
    return [run for run, mine in merits.items()
            if not any(all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine
                       for other in merits.values())]


def test_it_opens_with_two_runs_chosen(page: Any) -> None:
    assert page.title() == "4 runs compared | expunge"
    assert chosen(page) == ("1", "2") and page.inner_text("#kept") == "4 of 4 runs"
    assert page.eval_on_selector_all("#a option", "all => all.map(o => o.value)") == [*RUNS, "original", "retrained"]


def test_settings_stand_side_by_side_and_what_differs_is_marked(page: Any) -> None:
    heads = page.eval_on_selector_all("#settings thead th", "all => all.map(h => h.innerText)")
    assert [h.split(": ")[-1] for h in heads] == ["Setting", "npo + retain_kl", "ga", "simnpo + retain_nll", "rmu"]
    row = "#settings tr:has(th:text-is('epochs'))"
    assert page.eval_on_selector_all(f"{row} mark", "all => all.map(m => m.firstChild.textContent)") == [*"5678"]
    assert page.locator("#settings th:text-is('batch_size')").count() == 0
    page.uncheck("#only-differing")
    same = page.locator("#settings tr:has(th:text-is('batch_size'))")
    assert same.locator("td").count() == 4 and same.locator("mark").count() == 0


def test_a_value_that_most_runs_share_is_not_marked(page: Any) -> None:
    row = page.locator("#settings tr:has(th:text-is('ga.beta'))")
    assert row.locator("td").all_inner_texts()[0] == "–" and row.locator("mark").count() == 1


def test_the_table_shows_every_dimension_and_the_front(page: Any, data: dict[str, Any]) -> None:
    assert [d["title"] for d in data["dimensions"]] == ["Forgetting", "Utility", "Privacy", "Cost"]
    marked = page.eval_on_selector_all(
        "#runs tr[data-run]", "rows => rows.filter(r => r.lastChild.innerText == 'yes').map(r => r.dataset.run)")
    assert marked == front(data) and 0 < len(marked) < 4
    assert page.locator("#planes figure").first.locator(".point.front").count() == len(marked)


def test_only_the_front_is_kept_and_all_views_follow(page: Any, data: dict[str, Any]) -> None:
    page.check("#only-front")
    kept = front(data)
    assert shown_runs(page) == [*kept, "original", "retrained"]
    assert page.inner_text("#kept").split(". ")[0] == f"{len(kept)} of 4 runs"
    assert page.locator("#settings thead th").count() == 1 + len(kept)
    assert set(chosen(page)) <= {*kept, "original", "retrained"}
    assert page.locator("#relearning path.line[data-key]").count() == len(kept) + 1  # and the retrained model
    page.click("#all")
    assert page.inner_text("#kept") == "4 of 4 runs" and not page.is_checked("#only-front")
    assert page.locator("#relearning path.line[data-key]").count() == 5


def test_a_box_keeps_the_runs_in_it_and_a_click_empties_it(page: Any, data: dict[str, Any]) -> None:
    plane = page.locator("#planes figure").first
    plane.scroll_into_view_if_needed()
    area = plane.locator(".area").bounding_box()
    values = {run: data["dimensions"][0]["choices"][0]["values"][run] for run in RUNS}
    at = {run: plane.locator(f"[data-key='{run}']").bounding_box() for run in RUNS}
    middle = sorted(values.values())[1]
    edge = max(at[run]["x"] + at[run]["width"] for run in RUNS if values[run] <= middle) + 3
    page.mouse.move(area["x"] + 1, area["y"] + 1)
    page.mouse.down()
    page.mouse.move(edge - 20, area["y"] + 60)
    page.mouse.move(edge, area["y"] + area["height"] - 1)
    page.mouse.up()
    inside = [run for run in RUNS if values[run] <= middle]
    assert shown_runs(page) == [*inside, "original", "retrained"] and len(inside) == 2
    assert float(page.input_value("[data-limit=forget-1]")) >= middle
    assert set(chosen(page)) == set(inside)
    area = plane.locator(".area").bounding_box()
    page.mouse.click(area["x"] + 4, area["y"] + area["height"] - 4)
    assert len(shown_runs(page)) == 6 and page.input_value("[data-limit=forget-1]") == ""


def test_limits_do_the_same_from_the_keyboard(page: Any, data: dict[str, Any]) -> None:
    cost = data["dimensions"][3]["choices"][0]["values"]
    page.focus("[data-limit=cost-1]")
    page.keyboard.type(str(sorted(cost[run] for run in RUNS)[1]))
    kept = [run for run in RUNS if cost[run] <= sorted(cost[r] for r in RUNS)[1]]
    assert shown_runs(page) == [*kept, "original", "retrained"]
    assert page.evaluate("document.activeElement.dataset.limit") == "cost-1"
    page.keyboard.press("Control+a")
    page.keyboard.press("Delete")
    assert len(shown_runs(page)) == 6


def test_no_run_may_be_left(page: Any) -> None:
    page.fill("[data-limit=cost-0]", "1e9")
    assert page.inner_text("#kept").startswith("0 of 4 runs. ") and "No run is kept" in page.inner_text("#settings")
    page.click("#all")
    assert len(shown_runs(page)) == 6


def test_a_model_that_was_filtered_out_comes_back(page: Any, data: dict[str, Any]) -> None:
    out = next(key for key in "1234" if key not in front(data))
    page.select_option("#a", out)
    page.check("#only-front")
    assert chosen(page)[0] != out and "is left out, so A is " in page.inner_text("#kept")
    page.click("#all")
    assert chosen(page)[0] == out and page.inner_text("#kept") == "4 of 4 runs"
    page.check("#only-front")
    page.select_option("#a", front(data)[0])  # who chooses another keeps it
    page.click("#all")
    assert chosen(page)[0] == front(data)[0]


def test_another_way_to_measure_a_dimension(page: Any, data: dict[str, Any]) -> None:
    cost = data["dimensions"][3]["choices"]
    assert [c["name"] for c in cost] == ["train_s", "peak_memory_gb"]
    page.select_option("[data-measure=cost]", "peak_memory_gb")
    cell = page.locator("#runs tr[data-run='1'] td").nth(6)
    assert cell.inner_text() == "1.074"
    assert page.locator("#planes figure").nth(1).locator("text", has_text="GB of memory").count() == 1


def test_points_are_walked_and_chosen_by_keys(page: Any) -> None:
    plane = page.locator("#planes figure").first
    plane.locator("[data-key='1']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.key") == "3"
    page.keyboard.press("Enter")
    assert chosen(page) == ("3", "2")
    assert page.evaluate("document.activeElement.dataset.key") == "3"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("b")
    assert chosen(page) == ("3", "4")
    assert plane.locator(".point[tabindex='0']").count() == 1


def test_points_are_chosen_by_clicks(page: Any) -> None:
    plane = page.locator("#planes figure").first
    plane.locator("[data-key='retrained']").click(modifiers=["Shift"])
    plane.locator("[data-key='4']").click()
    assert chosen(page) == ("4", "retrained")


def test_runs_are_chosen_and_sorted_in_the_table(page: Any, data: dict[str, Any]) -> None:
    page.check("#runs input[name=pick-b][data-key='original']")
    assert chosen(page) == ("1", "original")
    page.click("#runs .sort[data-key=forget]")
    forget = data["dimensions"][0]["choices"][0]["values"]
    assert shown_runs(page)[:4] == sorted(RUNS, key=forget.get)
    assert page.get_attribute("#runs th:has(.sort[data-key=forget])", "aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert shown_runs(page)[:4] == sorted(RUNS, key=forget.get, reverse=True)
    assert page.get_attribute("#runs th:has(.sort[data-key=forget])", "aria-sort") == "descending"


def test_a_and_b_are_swapped(page: Any) -> None:
    page.click("#swap")
    assert chosen(page) == ("2", "1")
    assert page.inner_text("#contrast h2") == "Contrast: 2: ga against 1: npo + retain_kl"


@pytest.mark.parametrize("place", ["build", "screen", "contrast", "attack"])
def test_every_view_is_reached_by_its_link(page: Any, place: str) -> None:
    page.click(f".bar nav a[href='#{place}']")
    bar, heading = (page.locator(s).bounding_box() for s in (".bar", f"#{place} h2"))
    assert bar["y"] + bar["height"] <= heading["y"] < 400
