"""LLMU on an adapter, with the settings of the study on copyrighted text."""

from __future__ import annotations

from expunge.methods.base import Preset
from expunge.plugin import Card, Property


class GALoRA(Preset):
    """Gradient ascent, unrelated answers and KL on benign rows, training a low-rank adapter only."""

    card = Card(
        name="ga_lora", kind="preset",
        summary="llmu on a low-rank adapter: ascent, unrelated answers, KL on retain rows",
        paper="Machine Unlearning in Large Language Models (arXiv 2405.15152), the copyright branch",
        formula="0.5 * ascent + 1 * unrelated answers + 1 * KL on retain, over adapter weights",
        defaults="lr 1e-3, linear decay, 1000 steps of batch 2; rank 16, alpha 32, dropout 0.05 as in the study's "
                 "finetuning of the same models on the book",
        deviations=("the original is the model with the adapter switched off; in the study's notebook it is the model "
                    "being changed, so that its KL term is always zero",
                    "the book is first trained into the base (expunge train), not into the adapter that unlearns",
                    "weight decay 0.01 is our choice; the study gives 0.1 for the book's finetuning only",
                    "every linear layer gets an adapter, and the base keeps the precision it is loaded in, not "
                    "8 bit"),
    )
    expands_to = ("llmu + retain_kl + lora(rank=16, alpha=32.0, dropout=0.05) + "
                  "adamw(lr=0.001, warmup=0.0, weight_decay=0.01)")
    must_show = (
        Property("expands_to_a_recipe", {}, "the name equals the written-out sum"),
        Property("adapter_alone_moves", {}, "the base keeps its bits, and merging changes no output"),
        Property("unlearns_continuations", {"kl": 0.1},
                 "continuations resemble the text less than a never-trained model's, and retain rows stay"),
    )
