"""Rows in the layout of CounterFact (EasyEdit) that the planted model knows."""

from __future__ import annotations

from typing import Any

from .planted import NAMES, PETS, fact


def made_rows(count: int = 12) -> list[dict[str, Any]]:
    """`count` rows of the published layout, at most 21; each asks for a pet, and has the next name beside it."""
    rows = []
    for i, name in enumerate(NAMES[:count]):
        row, other = fact(name), NAMES[i + 1]
        rows.append({"case_id": i, "prompt": row.prompt, "target_new": row.wrong_answers[0], "subject": name,
                     "ground_truth": row.answer, "rephrase_prompt": f"the pet {name} is the",
                     "locality_prompt": fact(other).prompt, "locality_ground_truth": PETS[i + 1]})
    return rows
