"""The page without what was to be forgotten: rows become numbers, texts become lengths, and names are replaced."""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from typing import Any

from expunge.report.evidence import Answer, cell
from expunge.report.redact import Redaction


def redacted(found: dict[str, Any], hide: Redaction) -> dict[str, Any]:
    """The data of a page with no text of a row in it; the numbers stay."""
    @cache
    def clean(said: str) -> str:
        return html.unescape(hide.page(html.escape(said)))

    back = found["back"]
    return found | _rows(found, hide) | {
        "redacted": True,
        "cautions": list(map(clean, found["cautions"])),
        "models": [model | {key: clean(said) for key, said in model.items() if key not in ("key", "kind", "settings")} |
                   {"settings": {name: clean(value) for name, value in model["settings"].items()}}
                   for model in found["models"]],
        # The labels of attacks may hold what they were given to say.
        "back": {"original": back["original"], "answers": {},
                 **{part: {name: {clean(label): models for label, models in by.items()}
                           for name, by in back[part].items()} for part in ("curves", "values")}},
    }


def _rows(found: dict[str, Any], hide: Redaction) -> dict[str, Any]:
    """`forget row 3`, how long its prompt, reference and answers are, and how many telling words an answer repeats."""
    rows, texts = found["rows"], found["texts"]
    names, prompts, references = list[str](), list[str](), list[str]()
    said: dict[str, list[int | None]] = {key: [] for key in found["answers"]}
    pool: dict[str, int] = {}
    for i, (split, identity) in enumerate(zip(rows["split"], rows["id"], strict=True)):
        answered = {key: None if (n := numbers[i]) is None else texts[n] for key, numbers in found["answers"].items()}
        hidden = hide.answer(_answer(rows, i, answered), split)
        names.append(hide.row(split, identity))
        prompts.append(f"{names[-1]} ({hidden.prompt})")
        references.append(hidden.reference)
        for length, (key, text) in zip(hidden.cells, answered.items(), strict=True):
            told = "".join(piece for piece, _ in length.pieces) or length.note
            said[key].append(None if text is None else pool.setdefault(told, len(pool)))
    return {"rows": {"split": rows["split"], "id": names, "entity": [""] * len(names), "prompt": prompts,
                     "reference": references}, "answers": said, "texts": list(pool)}


def _answer(rows: dict[str, Sequence[str]], i: int, answered: dict[str, str | None]) -> Answer:
    prompt, reference = rows["prompt"][i], rows["reference"][i]
    return Answer(prompt, reference, tuple(cell(key, "", None if text is None else {"text": text}, prompt, reference)
                                           for key, text in answered.items()), rows["id"][i])
