"""Named lists of metrics and attacks; no torch here, since listings show them."""

from __future__ import annotations

QUICK_ATTACKS = ("prefix(words=3)", "paraphrase", "relearn(steps=16)", "quantise")
QUICK = (
    "forget.probability", "retain.probability", "holdout.probability", "forget.truth_ratio", "forget_quality",
    "leak_share", "over_forget_share",
    "forget.keyword", "holdout.keyword", "forget.recited",
    "forget.exact_memorization", "forget.extraction_strength", "retain.exact_memorization",
    "mia.loss", "mia.min_k", "forget.logit_lens",
    *QUICK_ATTACKS,
)
"""Seconds: the scores of one pass, the logit lens, and the cheapest attacks on prompts, wording, by tuning and by
rounding."""
METRICS: tuple[str, ...] = (
    "forget_quality", "leak_share", "over_forget_share", "model_utility", "privleak",
    *(f"{split}.{name}" for split in ("forget", "retain", "holdout", "neighbour", "utility")
      for name in ("probability", "rouge_l", "truth_ratio")),
    *(f"{split}.{name}" for split in ("forget", "retain", "holdout", "neighbour")
      for name in ("exact_memorization", "extraction_strength")),
    "forget.recited", "forget.keyword", "holdout.keyword", "forget.refusal",
    "forget.accuracy", "forget.above_chance", "retain.accuracy", "utility.accuracy",
    "mia.loss", "mia.zlib", "mia.min_k", "mia.min_k_pp", "mia.reference", "mia.grad_norm",
    "forget.logit_lens", "linear_probe", "forget.cka", "uds", "weight_distance",
)
ATTACKS = (
    "prefix", "prefix(words=3)", "paraphrase", "few_shot", "reintroduce", "roleplay", "step_by_step", "emphasis",
    "sample(count=8)", "extend", "contrast",
    "suffix(length=5, steps=8, batch=24, rows=6)", "soft_prompt(steps=24, rows=32)",
    "relearn(at=[5, 15])", "relearn(on=related, steps=24)", "relearn(on=unrelated, steps=24)",
    "relearn(rank=0, steps=24)",
    "quantise(bits=8)", "quantise", "quantise(bits=4, form=nf4)", "prune", "prune(by=difference)",
    "interpolate", "noise", "steer", "refusal_direction", "layer_skip",
)
"""At sizes at which all of them take a minute or two on the test bed."""
STANDARD = (*METRICS, *ATTACKS)
FULL = (
    *STANDARD,
    *(f"forget_quality(variant={v})" for v in ("legacy", "geometric")),
    *(f"forget.truth_ratio(variant={v})" for v in ("legacy", "geometric")),
    "forget.truth_ratio(variant=geometric, aggregate=prob_mean)", "forget.probability(form=paraphrase)",
    "remind", "remind(against=retain)", "forget.landscape_gap", "forget.knn_overlap", "forget.cka(to=original)",
    "linear_probe(labels=permuted)", "linear_probe(against=pure)", "transfer_probe",
    "forget.hidden_knowledge", "forget.hidden_knowledge(read=gap)", "conflict", "conflict(probe=original)",
    "forget.attribution", "forget.attribution(read=recovered)", "retain.attribution(read=destroyed)",
    "few_shot(shots=4, on=half)", "reintroduce(of=unrelated)", "sample(count=32)", "sample(count=32, temperature=0.5)",
    "suffix", "suffix(scope=questions)", "suffix(on=original)", "soft_prompt(at=[10, 30])",
    "relearn(on=forget, at=[5, 15])", "relearn(on=related, at=[5, 15])", "relearn(on=unrelated, at=[5, 15])",
    "relearn(rank=0, at=[5, 15])", "quantise(bits=3)", "prune(share=0.5)", "interpolate(alpha=0.2)",
    "noise(layer=0)", "noise(amp=0.5)", "steer(mode=shared)", "refusal_direction(against=neutral)",
    "relearn(steps=16) + prefix(words=3)", "quantise + sample(count=8)",
)
"""Published budgets: hours for a large model."""
BENCH_SCORES = (
    "leak_share", "over_forget_share", "forget_quality", "model_utility", "privleak", "mia.min_k",
    "forget.probability", "forget.rouge_l", "forget.truth_ratio", "forget.extraction_strength",
    "retain.probability", "retain.rouge_l",
)
BENCH = (*BENCH_SCORES, *QUICK_ATTACKS)
"""What every cell of a benchmark is asked: what papers report, and the quick attacks."""
SUITES = {"scores": METRICS, "quick": QUICK, "standard": STANDARD, "full": FULL, "bench": BENCH,
          "quick_attacks": QUICK_ATTACKS}
PRIMARY = {"quick": QUICK_ATTACKS, "standard": ATTACKS, "full": ATTACKS, "bench": QUICK_ATTACKS,
           "quick_attacks": QUICK_ATTACKS}
"""The primary attacks of each suite. See `audit.suite.Suite.primary`."""
