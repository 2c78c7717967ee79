"""blur on npo and retain_nll against the trainer of its authors, whose npo has one log ratio per batch: one row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from expunge.methods.combine.blur import BLUR
from official.bed import Bed, Difference, Found, difference
from official.taken import instance, statements, taken

REPOSITORY = "OptimAI-Lab/BLURLLMUnlearning"
COMMIT = "075f00e0f1494a9da3e13e342c28f3ac5c75e1bf"
FILE = "TOFU/src/trainer/unlearn/base.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed, lengths=[(4, 7)])
    losses = instance(code / "TOFU/src/trainer/unlearn/grad_diff.py", "BLUR_NPO",
                      {"compute_dpo_loss": taken(code / "TOFU/src/trainer/utils.py", "compute_dpo_loss")},
                      beta=0.1, retain_loss_type="NLL", ref_model=bed.reference_model)
    for lower, form in ((True, "retain_above"), (False, "forget_above")):
        trainer = instance(
            code / FILE, "BIUnlearnTrainer", gamma=0.5, lower=lower, _prepare_inputs=lambda inputs: inputs,
            compute_loss_context_manager=nullcontext, compute_loss=losses.compute_loss,
            accelerator=SimpleNamespace(backward=lambda loss, retain_graph: loss.backward(retain_graph=retain_graph)),
            args=SimpleNamespace(n_gpu=1, gradient_accumulation_steps=1),
            optimizer=SimpleNamespace(gradient_state=SimpleNamespace(sync_gradients=True)))
        bed.model.zero_grad(set_to_none=True)
        trainer.training_step(bed.model, bed.inputs)
        exec(statements(code / FILE, "tmp_upper = 0.0", 3),
             {"self": trainer, "model": bed.model, "GatheredParameters": lambda *_, **__: nullcontext()})
        theirs = Found(None, [p.grad for p in bed.model.parameters()])
        forget, retain = (bed.ours("npo(beta=0.1) + retain_nll", role).gradient for role in ("forget", "retain"))
        ours = Found(None, BLUR(gamma=0.5, form=form)(forget, retain))
        yield difference(f"{form}, gamma 0.5, npo + retain_nll, one row", ours, theirs)
