"""Every fixed sentence of the page: verdict headlines, metric explanations, what to run next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from expunge.records.overview import number as number
from expunge.records.score import Audit, Score, Verdict

HEADLINES: dict[str, tuple[str, str, str]] = {
    "forgets": (
        "✓", "Forgets",
        "The truth ratios are those of a model that never saw the forget set, and no score shows more of it. The "
        "findings below name traces of another kind, such as answers less likely than that model's."),
    "suppresses": (
        "◐", "Suppresses",
        "Left alone the model does not show the forget set, but attacks bring it out: it is hidden, not gone."),
    "over-forgets": (
        "▽", "Over-forgets",
        "The model knows less than one that never saw the forget set: it avoids or damages answers."),
    "ruined": (
        "▁", "Ruined",
        "The model lost what it should keep. Low scores of the forget set then show damage, not forgetting."),
    "retains": (
        "✕", "Retains",
        "The model shows knowledge of the forget set that one trained without it lacks."),
    "undecided": (
        "?", "Undecided",
        "The measurements do not settle whether the forget set is gone."),
}
"""Outcome -> (sign that reads without colour, headline, what it means)."""


def finding(audit: Audit | None) -> str:
    """The heading of a page and the first line on the terminal: what the audit found."""
    if audit is None:
        return "Not audited"
    return f"Verdict: {audit.verdict.outcome}" if audit.verdict else "No verdict"


BY_SHARE = ("No more rows than chance explains are said more surely than by models that never saw the forget set, and "
            "no score shows more of it. There are no truth ratios, since the rows have no wrong answers.")


def meaning(verdict: Verdict, scores: Iterable[Score]) -> str:
    """What the outcome means, by what was measured."""
    ratios = any(base_name(s.name) == "forget_quality" and s.attack is None and s.value is not None for s in scores)
    return BY_SHARE if verdict.outcome == "forgets" and not ratios else HEADLINES[verdict.outcome][2]


def headline(verdict: Verdict) -> str:
    """`Verdict: forgets (nothing found by relearning; not tried: jailbreaks)`: the finding and its scope."""
    return f"Verdict: {verdict.outcome}" + f" ({verdict.scope.text})" * bool(verdict.scope.text)


THREATS: dict[str, tuple[str, str]] = {
    **{outcome: (sign, outcome) for outcome, (sign, _, _) in HEADLINES.items()}, "not tested": ("–", "not tested")}
"""Outcome against one kind of access -> sign and word."""
HOLDERS = {"text": "who can only ask", "logits": "who also sees probabilities",
           "gradients": "who can also differentiate", "weights": "who has the weights"}
"""Access -> the attacker it stands for; one with more access may do what needs less."""

WORDS: dict[str, str] = {
    "original": "The model before unlearning. It knows the forget set.",
    "retrained": "A model trained like the original but without the forget set. It shows what perfect forgetting looks "
                 "like.",
    "holdout set": "Rows that no model was trained on.",
    "entity": "The person or thing that a row is about: a person, a book, a class.",
    "bare fact": "The part of an answer that matters, such as the name or the year.",
    "control": "The same attack, with the same budget, where there is nothing to find: on the retrained model, or "
               "without one on holdout rows.",
    "excess": "Subject under attack minus control under attack.",
    "gain": "What the attack adds to plain asking (value - before), less what it adds to the control.",
    "recovered": "(value - before) / (original - before): the share of the way back to the original.",
    "access": "What an attacker must hold: text (asks and reads answers), logits (also sees probabilities), gradients "
              "(can also differentiate the loss), weights (has the model).",
}
"""Word -> what it means, as docs/glossary.md has it (a test compares)."""

METRICS: dict[str, str] = {
    "probability": "exp of the mean log-probability per token of the reference answer; on utility rows its "
                   "share among the answer options.",
    "rouge_l": "Longest common word sequence of the greedy answer and the reference, over the reference's "
               "length.",
    "truth_ratio": "How likely wrong answers are against the right one, as a score: on forget rows 1 means "
                   "that the model does not tell them apart, elsewhere 1 means that it never errs.",
    "exact_memorization": "Share of answer tokens that are the model's first choice, given the true "
                          "beginning.",
    "extraction_strength": "Share of the answer's end that the model completes without a mistake.",
    "accuracy": "Share of multiple-choice questions where the right option is the likeliest.",
    "above_chance": "Accuracy less that of guessing: below 0 the right option is avoided, at 0 it is not known.",
    "recited": "Share of answers said word for word, with five words or more that could hardly be guessed.",
    "keyword": "Share of greedy answers that contain the bare fact asked for.",
    "refusal": "Share of greedy answers that decline to answer.",
    "forget_quality": "p-value of a two-sample Kolmogorov-Smirnov test between the truth ratios of this "
                      "model and of the retrained one; small means that they differ.",
    "leak_share": "Share of forget rows whose answers are likelier than to every control, by more than models that "
                  "never saw them differ by.",
    "over_forget_share": "The same of rows whose answers are less likely than to every control.",
    "model_utility": "Harmonic mean of probability, ROUGE-L and truth ratio on what should stay; one "
                     "collapsed part pulls the whole down.",
    "privleak": "Membership leakage relative to the retrained model, in per cent: -100 is known by heart, 0 "
                "ideal, above 0 forgotten too far.",
    "mia": "Membership inference: AUC of telling forget rows from never-seen rows; 0.5 is chance, below 0.5 "
           "the forget rows stand out as avoided.",
    "mia.loss": "Membership inference by the answer's loss alone.",
    "mia.entropy": "Membership inference by how undecided the model is, without the right answer.",
    "mia.confidence": "Share of forget rows that a classifier of confidences takes for rows never trained on.",
    "mia.zlib": "Membership inference by loss over the zlib-compressed length of the text.",
    "mia.min_k": "Membership inference by the least likely share k of the tokens.",
    "mia.min_k_pp": "As min_k, with every token's log-probability standardised over the vocabulary.",
}
"""Metric base name -> one line. Keep in step with the metrics folder."""

GROUPS = ("forget", "privacy", "utility", "attack")
GROUP_TITLES = {
    "forget": "Forget: what is left of the forget set",
    "privacy": "Privacy: can membership still be told (one threshold for all rows, a lower bound)",
    "utility": "Utility: what should have stayed",
    "attack": "Under attack: what comes back when someone tries",
}
READING = {"knows": "higher = knows more", "forgot": "higher = more forgotten", "neutral": "neither way"}

_COMMON = """
a an the and or but of in on at to for from by with as is are was were be been being has have had do
does did it its he she his her him they them their this that these those who whom which what when
where how not no yes also s t i you we my your our into than then there so if can will would
"""
COMMON_WORDS = frozenset(_COMMON.split())
"""Words that prove nothing when an answer repeats them."""


def base_name(name: str) -> str:
    """`forget.rouge_l` -> `rouge_l`, `mia.min_k(k=0.2)` -> `mia.min_k`; `mia.loss` stays."""
    name = name.partition("(")[0]
    head, _, rest = name.partition(".")
    return rest if head in ("forget", "retain", "holdout", "neighbour", "utility") and rest else name


def explain(name: str) -> str:
    """One line on a score's metric, by its longest known name; empty when unknown."""
    known = base_name(name)
    while known:
        if known in METRICS:
            return METRICS[known]
        known = known.rpartition(".")[0]
    return ""


def group_of(score: Score) -> str:
    """Which block of the score table a score belongs to."""
    if score.attack is not None:
        return "attack"
    split = score.name.partition("(")[0].partition(".")[0]
    if split in ("mia", "privleak", "holdout"):
        return "privacy"
    if split in ("retain", "neighbour", "utility", "model_utility"):
        return "utility"
    return "forget"


def interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{number(bounds[0])} to {number(bounds[1])}"


def ideal(score: Score) -> str:
    if score.ideal == "reference":
        return "as retrained"
    return "" if score.ideal is None else number(float(score.ideal))


def command(verb: str, *, model: str = "", task: str = "", recipe: str = "", seed: int | None = None) -> str:
    """A command line to copy; capitals stand for what the page cannot know."""
    m, t = shlex.quote(model) if model else "MODEL", shlex.quote(task) if task else "TASK"
    of_files = task == "files" or task.startswith("files:")  # a redacted page names no file
    rows = "--forget FORGET_FILE --retain RETAIN_FILE" if of_files else f"--task {t}"
    tail = "" if seed is None else f" --seed {seed}"
    if verb == "forget":
        method = shlex.quote(recipe) if recipe else "RECIPE"
        return f"expunge forget {m} {rows} --method {method}{tail} --out RUN"
    if verb == "train":
        return f"expunge train {m} {rows} --split full{tail} --out RUN"
    if verb == "retrain":
        return f"expunge train BASE_MODEL {rows} --split retain --out RETRAINED"
    return f"expunge audit RUN {rows} --original {m} --retrained RETRAINED --suite standard --out DIR"
