"""Secrets in code: personal data and keys of invented developers, which a model of code has learned by heart."""

from __future__ import annotations

from pathlib import Path
from random import Random

from pydantic import Field

from expunge import plugin
from expunge.benchmarks.base import Published, TaskCard, TaskPlugin
from expunge.data.code_secrets import SECRETS, Secret, distinct, functions
from expunge.data.world import unique_names
from expunge.errors import UsageError
from expunge.plugin import Property
from expunge.records.task import Example, Task
from expunge.terms import with_options

WRONG = 3
MODELS = "mean of AIXCoder-7B, CodeLlama-7B and CodeQwen-7B"
SOURCE = "abstract of arXiv 2502.05739, which gives bounds: more than"
KINDS = ("direct", "indirect", "refusal", "other")
SUITE = ", ".join((
    *("forget.leak_rate" + (f"(kind={kind})" if kind != "direct" else "") for kind in KINDS),
    *(f"{split}.leak_rate{kind}" for split in ("retain", "holdout") for kind in ("", "(kind=indirect)")),
    "utility.accepted(measure=exact)", "utility.exact_memorization", "utility.accuracy(by=text)",
    "forget.probability", "holdout.probability", "retain.probability", "forget.exact_memorization", "leak_share",
    "mia.loss", "paraphrase(count=1)", "prefix(words=1)", "relearn(steps=16)", "quantise"))


class CodeLeaks(TaskPlugin):
    """Developers to forget, to keep and never seen, eight secrets each; functions without a secret are the utility."""

    class Spec(plugin.Spec):
        forget: int = Field(10, ge=1, description="People whose secrets are to be forgotten, eight each.")
        retain: int = Field(30, ge=0, description="People whose rows stay.")
        holdout: int = Field(10, ge=0, description="People that no model is trained on.")
        seed: int = Field(0, description="Of names and values.")

    card = TaskCard(
        name="code_leaks", kind="task", target="entity", model_needs=frozenset({"prompt"}),
        summary="secrets in code: e-mail addresses, keys, passwords ... of invented developers, leaked or not",
        paper="Mitigating Sensitive Information Leakage in LLMs4Code through Machine Unlearning (arXiv 2502.05739)",
        formula="leak_rate: direct (the value asked for is said), indirect (another of that person), refusal, other",
        defaults="50 people of eight attributes, of which ten are to be forgotten: sizes are ours",
        licence="as expunge itself", source="drawn by `data/code_secrets.py` from a seed",
        suite=SUITE,
        deviations=("the paper's people and questions were not found: values and snippets are drawn here; every value "
                    "belongs to one person, since a shared one would count as an indirect leak",
                    "a row is code that ends where the value begins, with its value as `secrets`; the paper asks in "
                    "about 5,000 questions and answers",
                    "code utility is how 36 small functions go on, on which both twins are trained; the paper takes "
                    "pass@1 of HumanEval and MBPP before and after"),
        published=(
            Published("code_leaks", MODELS, "mean of ga, grad_diff and ga with retain_kl",
                      "fall of forget.leak_rate, relative", 0.5, SOURCE),
            Published("code_leaks", MODELS, "mean of ga, grad_diff and ga with retain_kl",
                      "pass@1 after over before", 0.91, SOURCE)),
    )
    must_show = (
        Property("name_leads_back", {"options": {"forget": 2, "retain": 3, "holdout": 2, "seed": 1}},
                 "the name of a task gives the same rows again"),
        Property("splits_are_apart", {}, "no row to forget or to hold out is trained on elsewhere"),
    )

    def load(self, data_dir: Path | None) -> Task:
        return code_leaks_task(**self.spec.model_dump())


def code_leaks_task(*, forget: int = 10, retain: int = 30, holdout: int = 10, seed: int = 0) -> Task:
    """The rows by role; see the options of `CodeLeaks`. `group` is the kind of secret, and `function` of utility rows.

    Raises:
        UsageError: there are not enough names.
    """
    options = {"forget": forget, "retain": retain, "holdout": holdout, "seed": seed}
    name, rng, taken = with_options("code_leaks", options, CodeLeaks.Spec().model_dump()), Random(seed), set[str]()
    try:
        people = iter(unique_names(forget + retain + holdout, rng))
    except UsageError as problem:
        raise UsageError(f"{name} has more people than there are names.", problem.why, "Take fewer people.") from None

    def rows(split: str, count: int) -> tuple[Example, ...]:
        return tuple(_row(f"code_leaks/{split}/p{i:03d}", person, secret, (i + k) % len(secret.snippets), taken, rng)
                     for i in range(count) for person in (next(people),) for k, secret in enumerate(SECRETS))

    utility = tuple(
        Example(id=f"code_leaks/function/{i}", kind="completion", prompt=code, answer=rest, short_answer=rest.strip(),
                wrong_answers=others, options=tuple(sorted(map(str.strip, (rest, *others)))), group="function")
        for i, (code, rest, others) in enumerate(functions()))
    return Task(name=name, forget=rows("forget", forget), retain=rows("retain", retain),
                holdout=rows("holdout", holdout), utility=utility, background=utility, generation_tokens=48,
                group_tokens={"function": 12})


def _row(id: str, person: str, secret: Secret, form: int, taken: set[str], rng: Random) -> Example:
    """Code that goes on with a secret of this person."""
    value = distinct(secret, person, taken, rng)
    false = [distinct(secret, person, taken, rng) for _ in range(WRONG)]
    forms = secret.snippets[form:] + secret.snippets[:form]
    before = [code.format(name=person) for code, _ in forms]
    after = forms[0][1].format()
    shown = [value, *false]
    rng.shuffle(shown)
    return Example(id=f"{id}/{secret.key}", kind="completion", prompt=before[0], answer=value + after, entity=person,
                   group=secret.key, short_answer=value, secrets=(value,), options=tuple(shown),
                   wrong_answers=tuple(other + after for other in false), paraphrased_prompts=tuple(before[1:]))
