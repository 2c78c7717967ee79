"""reglu against the authors' code: weights after the initialisation, and the penalty at random matrices B.

Rows of equal length, as their sums count padding. No more directions than rows: further ones are arbitrary in both.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.methods.scopes.reglu import B, HeldScope, ReGLU
from expunge.models.language import CausalLM
from official.bed import EQUAL, Bed, Difference, Found, difference
from official.taken import instance, taken

REPOSITORY = "sustech-nlp/ReGLU"
COMMIT = "c607d5fa67c2b2c0340a85ab66e50d8833d8e2ef"
FILE = "src/reglu/methods/reglu/rila.py"
TRAINER = "src/reglu/methods/reglu/core.py"
SETTINGS = ((3, 0.7, 8), (5, 0.5, 4))  # rank, b, k: k at most half of the outputs of any layer
TARGETS = ["q_proj", "v_proj", "down_proj"]


def compare(code: Path, seed: int) -> Iterator[Difference]:
    for rank, balance, k in SETTINGS:
        bed = Bed(seed, lengths=EQUAL * 2, num_key_value_heads=4)
        options = {"rank": rank, "balance": balance, "directions": k, "targets": TARGETS}
        rows: dict[str, Any] = {side: batch.rows for side, batch in bed.batches.items()}
        mine = CausalLM(copy.deepcopy(bed.model), bed.subject.encoder, "")
        scope = ReGLU(**options).apply(mine, rows)
        assert isinstance(scope, HeldScope)
        theirs, bases = _initialised(code, bed, rank, balance, k)
        bodies = [{n: p for n, p in model.named_parameters() if n.endswith("base_layer.weight")}
                  for model in (mine.model, theirs)]
        yield difference(f"weights after the start, rank {rank}, b {balance}",
                         *(Found(None, list(body.values())) for body in bodies))
        generator = torch.Generator().manual_seed(seed)
        for one, other in zip(mine.model.parameters(), theirs.parameters(), strict=True):
            one.data = torch.randn(one.shape, generator=generator).double()
            other.data = one.data.clone()
        value = scope.penalty()
        penalty = instance(code / TRAINER, "RegLUUnlearnTrainer", rol_rank=k, _rol_layers=_layers(theirs, bases))
        loss = 0.5 * penalty._rol_penalty(torch.zeros(()))
        ups = [[p for n, p in model.named_parameters() if n.endswith(B)] for model in (mine.model, theirs)]
        assert value is not None
        yield difference(f"penalty at random B, k {k}", *(
            Found(float(one.detach()), torch.autograd.grad(one, up))
            for one, up in zip((value, loss), ups, strict=True)))


def _initialised(code: Path, bed: Bed, rank: int, balance: float, k: int) -> tuple[Any, dict[str, torch.Tensor]]:
    """The model with their adapters, and their directions of retain outputs by layer."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(copy.deepcopy(bed.model), LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=TARGETS))
    few = [tuple((x["input_ids"][i], x["labels"][i], x["attention_mask"][i]) for x in bed.inputs.values())
           for i in range(len(bed.batches["forget"]))]
    config = SimpleNamespace(
        model_family="", lora=SimpleNamespace(targets="all", r=rank, alpha=2 * rank),
        data=SimpleNamespace(split=""), model=SimpleNamespace(model_path="none"),
        training=SimpleNamespace(batch_size=3),
        method=SimpleNamespace(rila_cache_path=None, rila_beta=balance, rila_cov_shrink=0.0, rol_rank=k,
                               rila_samples_per_split=len(few)))
    start = taken(
        code / FILE, "initialize_rila",
        get_model_spec=lambda family: SimpleNamespace(default_lora_targets={"all": TARGETS}),
        custom_data_collator_unlearn=lambda pairs: [
            [torch.stack(part) for part in zip(*side, strict=True)] for side in zip(*pairs, strict=True)])
    with tempfile.TemporaryDirectory() as place:
        done, bases, _ = start(model, config, few, place, False)
    assert done
    return model, bases


def _layers(model: Any, bases: dict[str, torch.Tensor]) -> list[dict[str, Any]]:
    """What their trainer keeps of every layer."""
    modules = dict(model.named_modules())
    for name, base in bases.items():
        modules[name].held = base
    return [{"module": modules[name], "adapter": "default", "q_attr": "held"} for name in bases]
