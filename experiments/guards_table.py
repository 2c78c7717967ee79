"""The table of what guards at inference detect, leak and cost, from results/guards.json."""

from __future__ import annotations

from cells import results

from expunge.report.leaderboard import table

FORMS = ("plain", "paraphrased", "in other words", "translated", "multi-turn")


def page() -> str:
    """A column for each guard."""
    found = results("guards")
    rows = {row["guard"]: row for row in found["rows"]}
    lines = {"unrelated prompts on which it fired": {g: f"{r['unrelated']['fired']} of {r['unrelated']['prompts']}"
                                                     for g, r in rows.items()},
             "other bits where it was silent: logits, words": {
                 g: f"{r['unrelated']['other_logits']}, {r['unrelated']['other_words']}" for g, r in rows.items()}}
    for what, key in (("AUC of detection", "auc"), ("detected", "detected"), ("leaks", "leaks")):
        lines |= {f"{what}, {form}": {g: f"{r['forms'][form][key]:.2f}" + (
            f" (bare model {r['forms'][form]['bare_leaks']:.2f})" if key == "leaks" else "") for g, r in rows.items()}
            for form in FORMS}
    lines["leaks with the guard taken off"] = {g: f"{r['taken_off_leaks']:.2f}" for g, r in rows.items()}
    lines |= {f"time per token, {when}, over the bare model's": {g: f"{r['latency'][when]['ratio']:.2f}"
                                                               for g, r in rows.items()}
              for when in ("silent", "fired")}
    made = [{"": what} | {f"`{guard}`": text for guard, text in cells.items()} for what, cells in lines.items()]
    return f"`{found['task']}`; commit `{found['environment']['commit'][:7]}`.\n\n{table(made, list(made[0]))}"
