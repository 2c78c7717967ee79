"""GeRe: hold every hidden unit on its side of two thresholds, on general text."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from expunge.data.files import read_examples
from expunge.methods._lib.weighted_likelihood import sequence_mean, token_mean
from expunge.methods._lib.written_rows import forbidden_words, generic_texts
from expunge.methods.base import Retain, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Example, Task
from expunge.seeding import stream
from expunge.training.step import Step, Term


def threshold_margin(hidden: Tensor, original: Tensor, low_D: Tensor, high_D: Tensor) -> Tensor:
    """How far each unit is past the threshold that kept it in its state; same shape as `hidden`.

    The original puts a unit above (>= high), below (<= low) or between. Zero where the unit is still there.
    """
    above, below = torch.relu(hidden - high_D), torch.relu(low_D - hidden)
    between = torch.where(original >= high_D, torch.relu(high_D - hidden), above + below)
    return torch.where(original <= low_D, torch.relu(hidden - low_D), between)


class GeRe(Retain):
    """Replay general text: its likelihood, and a margin on the state of every hidden unit."""

    own_rows = True

    class Spec(WeightedSpec):
        margin: float = Field(100.0, ge=0, description="Factor of the threshold margin beside the likelihood.")
        nll: float = Field(1.0, ge=0, description="Factor of the likelihood of the replayed text.")
        width: float = Field(1.0, gt=0, description="Thresholds: the mean of a unit and this many deviations.")
        layer: int | None = Field(None, ge=0, description="Block whose output is held; the last one by default.")
        rows: str | None = Field(None, description="File of general rows; if left out the task's background rows, or "
                                                   "texts that the model writes where it has none.")
        count: int = Field(1000, ge=1, description="Most rows of it.")

    card = Card(
        name="gere", kind="retain",
        summary="general text replayed, with every hidden unit held on its side of two thresholds",
        paper="GeRe: Towards Efficient Anti-Forgetting in Continual Learning of LLM via General Samples Replay "
              "(arXiv 2508.04676)",
        formula="R = nll * NLL + margin * mean over violated units of: relu(u+ - h) if h0 >= u+, relu(h - u-) if "
                "h0 <= u-, else relu(h - u+) + relu(u- - h); u+- = mean +- deviation of h0",
        defaults="margin 100 (the authors' README); 1,000 texts of at most 563 tokens from SlimPajama in the paper",
        needs=frozenset({"reference.hidden"}),
        model_needs=frozenset({"generate", "hidden", "logp", "prompt", "weights"}),
        deviations=("the mean over violated units is taken row by row and then over rows; the authors take it over the "
                    "batch, so that it depends on how rows are batched. With one row both agree",
                    "hidden states are those before the final norm; the authors read those after it",
                    "the authors halve both likelihoods where a batch holds both kinds of rows, and offer a weight "
                    "that follows the loss: use weight= and margin=",
                    "the mean over violated units does not tell how many are violated, as in the authors' code"),
    )
    reads = ("general",)
    space = {"weight": ("log", 0.1, 5.0), "margin": ("log", 1.0, 1000.0)}
    must_show = (
        Property("margin_zero_at_start", {}, "the original satisfies its own states exactly"),
        Property("margin_restores", {}, "a unit past its threshold is drawn back, one within its band is left alone"),
        Property("softens_damage", {"share": 0.9}, "without any retain row, retain answers lose less than with the "
                                                   "objective alone"),
    )

    @property
    def builds(self) -> bool:
        return True

    def _block(self, subject: CausalLM) -> int:
        return len(subject.blocks) - 1 if self.spec.layer is None else int(self.spec.layer)

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        spec, found = self.spec, tuple(task.background)
        if spec.rows:
            found = tuple(read_examples(Path(spec.rows)))
        if not found:
            texts = generic_texts(subject, min(64, spec.count), run, tokens=48, temperature=1.0,
                                  forbidden=forbidden_words(task.forget))
            found = tuple(Example(id=f"general{i}", prompt="", answer=t, kind="text") for i, t in enumerate(texts))
        chosen = found if len(found) <= spec.count else stream(run.seed, "gere").sample(found, spec.count)
        rows = [subject.encoder.encode(row) for row in chosen]
        total_D, squares_D, count = torch.zeros(subject.width).double(), torch.zeros(subject.width).double(), 0
        with subject.evaluating():
            for part in subject.encoder.batches(rows):
                batch = subject.collate([rows[i] for i in part]).to(subject.device)
                kept = subject.hidden(batch, self._block(subject))[batch.attention_BT.bool()].double().cpu()
                total_D, squares_D, count = total_D + kept.sum(0), squares_D + kept.pow(2).sum(0), count + len(kept)
        mean_D = total_D / count
        deviation_D = (squares_D / count - mean_D ** 2).clamp_min(0).sqrt()
        return {"rows": [row.model_dump(mode="json", exclude_defaults=True) for row in chosen],
                "low": (mean_D - spec.width * deviation_D).tolist(),
                "high": (mean_D + spec.width * deviation_D).tolist()}

    def sides(self, task: Task, rng: random.Random) -> dict[str, Example]:
        rows = self.made["rows"]
        return {"general": Example.model_validate(rows[rng.randrange(len(rows))])}

    def terms(self, step: Step) -> dict[str, Term]:
        answers, batch, block = step.answers("general"), step.batches["general"], self._block(step.subject)
        hidden_BTD = step.hidden("general", block)
        original_BTD = step.reference.hidden(batch, block)
        low_D, high_D = (torch.tensor(self.made[n]).to(hidden_BTD) for n in ("low", "high"))
        off_BTD = threshold_margin(hidden_BTD, original_BTD, low_D, high_D) * batch.attention_BT[..., None]
        violated_B = (off_BTD > 0).sum((1, 2)) + 1e-8
        found = {"gere": sequence_mean(self.spec.margin * off_BTD.sum((1, 2)) / violated_B, "general")}
        if self.spec.nll > 0:
            found["gere_nll"] = token_mean(-self.spec.nll * answers.logp_N, answers, "general")
        return found
