"""One entry script of locuslab/open-unlearning, unchanged, with clocks; run by peer.py under the peer's own Python.

    python peer_side.py OPTIONS.json train.py|eval.py HYDRA_OVERRIDE...

Nothing of the checkout is edited: functions are replaced from outside after everything is imported. Options:
    src        the checkout's `src`.
    clocks     where the measurements go.
    order      one entry per step, {"forget": [rows], "retain": [rows]}: the batches, in place of drawn ones.
    as_ours    only for comparing losses: where the peer averages over other positions than expunge does, or draws
               its own control vector, do as expunge does. Timed runs leave this out.
"""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from clocks import Clocks


def prescribe(order: Sequence[dict[str, list[int]]]) -> None:
    """The data set consists of exactly these pairs, in this order."""
    import transformers
    from data.unlearn import ForgetRetainDataset
    from torch.utils.data import SequentialSampler

    pairs = [pair for step in order for pair in zip(step["forget"], step["retain"], strict=True)]

    def item(self: Any, index: int) -> dict[str, Any]:
        forget, retain = pairs[index]
        return {"forget": self.forget[forget], "retain": self.retain[retain]}

    ForgetRetainDataset.__len__ = lambda self: len(pairs)
    ForgetRetainDataset.__getitem__ = item
    transformers.Trainer._get_train_sampler = lambda self: SequentialSampler(self.train_dataset)


def watch(clocks: Clocks) -> None:
    """Tick at every training step, keep its loss unrounded, and time what happens inside the model."""
    import torch
    import transformers
    from evals.base import Evaluator

    step = transformers.Trainer.training_step

    def training_step(self: Any, *args: Any, **options: Any) -> Any:
        clocks.tick()
        loss = step(self, *args, **options)
        clocks.found["losses"].append(float(loss))
        return loss

    transformers.Trainer.training_step = training_step
    clocks.patch(transformers.LlamaForCausalLM, "forward", "forward")
    clocks.patch(torch.autograd, "backward", "backward")
    clocks.patch(Evaluator, "evaluate", "evaluation", around=True)
    clocks.patch(transformers.generation.utils.GenerationMixin, "generate", "generation")


def as_ours(given: dict[str, Any]) -> None:
    """Means over supervised tokens, at the positions that predict them; RMU's control vector as given."""
    import torch
    import trainer.unlearn.grad_diff
    import trainer.unlearn.undial
    from torch.nn import functional as F
    from trainer.unlearn.rmu import RMU

    def supervised(inputs: dict[str, Any]) -> Any:
        return inputs["labels"][:, 1:] != -100

    def divergence(model: Any, original: Any, inputs: dict[str, Any]) -> Any:
        kept = supervised(inputs)
        with torch.no_grad():
            before = F.log_softmax(original(**inputs).logits[:, :-1][kept], -1)
        found = model(**inputs)
        now = F.log_softmax(found.logits[:, :-1][kept], -1)
        return F.kl_div(now, before, reduction="batchmean", log_target=True), found

    def distilled(model: Any, original: Any, inputs: dict[str, Any], strength: float) -> Any:
        kept = supervised(inputs)
        true = inputs["labels"][:, 1:][kept]
        with torch.no_grad():
            teacher = original(**inputs).logits[:, :-1][kept]
            teacher[torch.arange(len(true)), true] -= strength
        found = model(**inputs)
        return F.cross_entropy(found.logits[:, :-1][kept], teacher.softmax(-1)), found

    replaced = {
        "kl": (trainer.unlearn.grad_diff, "compute_kl_divergence", divergence),
        "undial": (trainer.unlearn.undial, "compute_undial_loss", distilled),
        "rmu": (RMU, "compute_activation_loss", lambda self, a, b, mask: (a - b).square().mean(-1)[mask].mean()),
    }
    owner, name, new = replaced[given["reduction"]]
    if not hasattr(owner, name):
        raise SystemExit(f"{name} is not where it was: this is another version of the peer.")
    setattr(owner, name, new)
    if "control_vector" in given:
        vector = torch.tensor(given["control_vector"]).view(1, 1, -1)
        RMU.get_control_vector = lambda self, size: vector


def main() -> None:
    options = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, options["src"])
    clocks = Clocks(Path(options["clocks"]))
    # What the entry script imports, in its order; it finds them there.
    import evals  # noqa: F401
    import model  # noqa: F401
    import trainer  # noqa: F401

    import data

    clocks.imported()
    assert data.__file__ and data.__file__.startswith(options["src"])
    watch(clocks)
    if "order" in options:
        prescribe(options["order"])
    if options.get("as_ours"):
        as_ours(options["as_ours"])
    clocks.found["packages"] = {name: metadata.version(name) for name in
                                ("torch", "transformers", "accelerate", "datasets", "deepspeed", "numpy")}
    sys.argv = [str(Path(options["src"], sys.argv[2])), *sys.argv[3:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        clocks.write()


if __name__ == "__main__":
    main()
