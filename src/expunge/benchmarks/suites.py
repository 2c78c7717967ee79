"""Named lists of metric terms. Any list of terms works in their place."""

from __future__ import annotations

from expunge.errors import UsageError, did_you_mean

QUICK = (
    "forget.probability", "retain.probability", "holdout.probability", "forget.truth_ratio", "forget_quality",
    "forget.exact_memorization", "forget.extraction_strength", "retain.exact_memorization", "mia.loss", "mia.min_k",
)
STANDARD = (
    "forget_quality", "model_utility", "privleak",
    *(f"{split}.{name}" for split in ("forget", "retain", "holdout", "neighbour", "utility")
      for name in ("probability", "rouge_l", "truth_ratio")),
    *(f"{split}.{name}" for split in ("forget", "retain", "holdout", "neighbour")
      for name in ("exact_memorization", "extraction_strength")),
    "forget.accuracy", "retain.accuracy", "utility.accuracy",
    "mia.loss", "mia.zlib", "mia.min_k", "mia.min_k_pp",
)
FULL = (
    *STANDARD,
    *(f"forget_quality(variant={v})" for v in ("legacy", "geometric")),
    *(f"forget.truth_ratio(variant={v})" for v in ("legacy", "geometric")),
    "forget.truth_ratio(variant=geometric, aggregate=prob_mean)",
)
SUITES = {"quick": QUICK, "standard": STANDARD, "full": FULL}


def terms_of(suite: str) -> tuple[str, ...]:
    """A suite's terms, or the terms of a comma-separated list (commas in brackets do not split)."""
    if suite in SUITES:
        return SUITES[suite]
    found, depth, word = [], 0, ""
    for letter in suite + ",":
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            found.append(word.strip())
            word = ""
        else:
            word += letter
    if not all(found) or not found:
        raise UsageError(f"{suite!r} is neither a suite nor a list of metrics.", did_you_mean(suite, SUITES))
    if len(found) == 1 and "." not in found[0] and "(" not in found[0]:
        from expunge.registry import entries

        if found[0] not in entries():
            raise UsageError(f"There is no suite or metric called {suite!r}.",
                             did_you_mean(suite, [*SUITES, *STANDARD]))
    return tuple(dict.fromkeys(found))
