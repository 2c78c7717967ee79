"""What a plug-in may need of the rows, of the audit and of the model: the words, the reasons and what to do. No torch.

Cards name these words; preflight, the audit and `expunge explain` read the table. A word that is not here is a type
error, and a failure of the contract suite.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

RowNeed = Literal["retain", "holdout", "questions", "paraphrases", "wrong_answers"]
"""Rows, or fields of rows, that the task must bring."""
ReferenceNeed = Literal["reference.logp", "reference.likeliest", "reference.logits", "reference.hidden",
                        "reference.attention"]
"""Outputs of the original model that the reference service hands out during a run."""
AuditNeed = Literal["original", "retrained"]
"""Other models that the audit must be given."""
Need = Literal[RowNeed, ReferenceNeed, AuditNeed]
ModelNeed = Literal["logp", "distribution", "hidden", "blocks", "attention", "generate", "sequence", "prompt",
                    "weights", "router", "image"]
"""What the model must offer:

- logp: log-probabilities of what the rows supervise (tokens, or the label);
- distribution: the whole distribution these stand in (over the vocabulary, or over the classes);
- hidden: hidden states after numbered blocks;
- attention: how much each token looks at each before it, in every block that attends;
- blocks: numbered blocks of layers, such as the stages of an image classifier;
- generate: answers in the model's own words;
- sequence: answers of several units in order (tokens), each predicted from those before it;
- prompt: rows that are asked in words, which may be reworded or added to;
- weights: weights that can be read and changed, and gradients by them;
- router: routing to experts;
- image: rows that hold an image.
"""

NEEDS: tuple[Need, ...] = (*get_args(RowNeed), *get_args(ReferenceNeed), *get_args(AuditNeed))
MODEL_NEEDS: tuple[ModelNeed, ...] = get_args(ModelNeed)

OFFERS: dict[str, frozenset[ModelNeed]] = {
    "text": frozenset({"logp", "distribution", "hidden", "blocks", "attention", "generate", "sequence", "prompt",
                       "weights", "router"}),
    "image": frozenset({"logp", "distribution", "blocks", "weights", "image"}),
}
"""What models offer, by what they read: language models text, classifiers images. A router only where there is one."""


FIRST: tuple[ModelNeed, ...] = ("router", "generate", "prompt")
"""Where several are unmet, a reader is told of these first."""


def unmet(needs: Iterable[ModelNeed], offered: Iterable[ModelNeed]) -> list[ModelNeed]:
    """What of these needs a model does not offer, the most telling first."""
    lacking = frozenset(needs) - frozenset(offered)
    return [need for need in dict.fromkeys((*FIRST, *MODEL_NEEDS)) if need in lacking]


def serves(needs: Iterable[ModelNeed]) -> list[str]:
    """Which kinds of models (text, image) offer all of this."""
    asked = frozenset(needs)
    return [kind for kind, offered in OFFERS.items() if asked <= offered]


class NeedText(NamedTuple):
    """How an unmet need is told: "<plug-in> <why>.", and what to do about it."""

    why: str
    fix: str


NEED_TEXTS: dict[RowNeed | AuditNeed | ModelNeed, NeedText] = {
    "retain": NeedText("needs retain rows, and the task has none", "Give --retain FILE."),
    "holdout": NeedText("needs holdout rows, and the task has none", "Give --holdout FILE."),
    "questions": NeedText("needs questions to answer, and the forget rows are running text",
                          "Use a task of question and answer rows, or another objective such as npo."),
    "paraphrases": NeedText("needs paraphrased answers on every forget row", "Add a `paraphrased_answer` field."),
    "wrong_answers": NeedText("needs wrong answers on every forget row", "Add a `wrong_answers` field."),
    "original": NeedText("needs the original model, and none is given", "Give --original MODEL."),
    "retrained": NeedText("needs a retrained model, and none is given", "Give --retrained MODEL."),
    "logp": NeedText("needs log-probabilities, and this kind of model gives none", "Take another plug-in."),
    "distribution": NeedText("needs a distribution over tokens or classes, and this kind of model gives none",
                             "Take one that needs log-probabilities only, such as npo."),
    "hidden": NeedText("needs hidden states after numbered blocks, and this kind of model gives none",
                       "Take one that reads the answers only, such as npo."),
    "attention": NeedText("needs attention maps, and this kind of model has none",
                          "Take one that reads the answers only, such as npo."),
    "blocks": NeedText("needs numbered blocks of layers, and this kind of model has none", "Leave it out."),
    "generate": NeedText("needs generated text, and this kind of model writes none", "Leave it out."),
    "sequence": NeedText("needs answers made of tokens, and this kind of model gives one label per row",
                         "Leave it out."),
    "prompt": NeedText("needs prompts in words, and rows of this kind of model have none", "Leave it out."),
    "weights": NeedText("needs the weights, and this model only answers", "Name a model with weights, or a guard."),
    "router": NeedText("needs a router of experts, and this kind of model has none", "Name a model with experts."),
    "image": NeedText("needs rows with images, and this kind of model reads none", "Name a model that reads images."),
}
