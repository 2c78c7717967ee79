"""KUDA: turn the hidden states of forget text away from what they were, in the blocks that hold the facts."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from expunge.errors import ExpungeError
from expunge.methods._lib.activations import Counted, over_counted
from expunge.methods._lib.tracing import best_window, effects
from expunge.methods.base import Objective, WeightedSpec
from expunge.methods.run_context import RunContext
from expunge.models.language import CausalLM
from expunge.plugin import Card, Property
from expunge.records.task import Task
from expunge.training.step import Step, Term


def deviation(hidden_BTD: Tensor, original_BTD: Tensor, beta: float) -> Tensor:
    """(1/beta) log(1 + exp(beta cos)) of every position, shape B T: relu(cos) for large beta; for small beta cos / 2
    and a constant."""
    return F.softplus(F.cosine_similarity(hidden_BTD, original_BTD, dim=-1), beta=beta)


class KUDA(Objective):
    """Lower the cosine between the current and the original states of forget text, mean over a window of blocks."""

    builds = True

    class Spec(WeightedSpec):
        layers: list[int] | None = Field(None, min_length=1, description=(
            "Blocks whose output turns away; found by causal tracing on the forget rows if left out."))
        width: int = Field(3, ge=1, description="Blocks in a row that tracing chooses.")
        beta: float = Field(5.0, gt=0, description="Inverse temperature: the larger, the less it pushes beyond "
                                                   "orthogonal states.")
        relaxation: float = Field(0.01, ge=0, le=1, description="Of null_space: how large an input direction of retain "
                                                                "rows may be, as a share of the largest, to be open.")
        mask: Counted = Field("answer", description="Positions that count: the answer only, or every real token. What "
                                                    "prompts share with retain rows cannot turn on one side alone.")
        rows: int = Field(256, ge=1, description="Most forget rows that are traced.")

    card = Card(
        name="kuda", kind="objective", target="capability",
        summary="turn forget states away from the original's, in the null space of retain inputs",
        paper="KUDA: Knowledge Unlearning by Deviating Representation for LLMs (arXiv 2602.19275)",
        formula="L = mean_l mean_t (1/beta) log(1 + exp(beta cos(H_l(x_f), H0_l(x_f)))), l in the traced window",
        defaults="width 3, beta 5, relaxation 0.01: ours; the paper's loss and values are not known in closed form",
        needs=frozenset({"retain", "reference.hidden"}),
        model_needs=frozenset({"hidden", "logp", "weights"}),
        companions="null_space + retain_nll",
        deviations=("the loss is reconstructed from its description: a cosine complement with an inverse temperature",
                    "no code is stored: nothing was compared",
                    "objective and scope trace the same rows, each for itself",
                    "states of words that forget and retain answers share cannot turn on one side alone: on the test "
                    "bed, whose people have the same kinds of answers, cosines end at 0.40 and 0.85; of forget texts "
                    "with words of their own at 0.06 and 0.97"),
    )
    space = {"beta": ("log", 1.0, 50.0), "relaxation": ("log", 1e-4, 0.3)}
    must_show = (
        Property("softens_relu", {}, "a large beta gives relu(cos), a small one the gradient of cos / 2"),
        Property("leaves_no_mark", {}, "tracing before the first step gives plain data and changes nothing"),
        Property("turns_away", {"forget": 0.4, "retain": 0.8}, "answer states of forget rows turn, others less"),
        Property("turns_away", {"forget": 0.3, "retain": 0.95, "unrelated": True,
                                "options": {"layers": [0, 1], "beta": 30.0, "relaxation": 0.001}},
                 "of texts that share no words they turn beyond 0.3, and others keep 0.95"),
        Property("forgets", {"options": {"width": 2}, "lr": 1e-2, "steps": 60, "retain_rise": 0.1},
                 "forget answers are lost, retain answers stay"),
    )

    @property
    def asks(self) -> tuple[str, ...]:
        return ("forget",)

    def companions(self, depth: int) -> str:
        spec = self.spec
        place = f"layers={spec.layers}" if spec.layers is not None else f"width={spec.width}, rows={spec.rows}"
        return f"null_space({place}, relaxation={spec.relaxation!r}) + retain_nll"

    def prepare(self, subject: CausalLM, task: Task, run: RunContext) -> dict[str, Any]:
        if self.spec.layers is not None:
            return {"layers": self.spec.layers}
        rows = [subject.encoder.encode(example) for example in task.forget[: self.spec.rows]]
        found = effects(subject, rows)
        return {"layers": list(best_window(found, self.spec.width)), "effects": found.tolist()}

    def terms(self, step: Step) -> dict[str, Term]:
        batch, blocks = step.batches["forget"], getattr(self, "made", {}).get("layers")
        if not blocks:
            raise ExpungeError("kuda has no blocks to turn.", "They are traced on the task's rows before the first "
                                                              "step.")
        parts = [deviation(step.hidden("forget", block), step.reference.hidden(batch, block), self.spec.beta)
                 for block in blocks]
        return {"kuda": over_counted(sum(parts[1:], parts[0]) / len(parts), batch, self.spec.mask, "forget")}
