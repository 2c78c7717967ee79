"""rule against the authors' trainer: group advantages, clipped policy loss and divergence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from expunge.data.text_encoder import collate
from expunge.methods.objectives.rule import group_advantages, grpo
from official.bed import Bed, Difference, Found, difference
from official.taken import taken

REPOSITORY = "xwtMarch/RULE-Unlearn"
COMMIT = "a057b3d8af2965f9853a2157a54180da7fa9da1d"
FILE = "verl/trainer/core_algos.py"
CLIP = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_dual": 3.0}


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed, draw = Bed(seed, sides=("rollout",)), torch.Generator().manual_seed(seed)
    helpers = SimpleNamespace(masked_mean=taken(code / "verl/utils/torch_functional.py", "masked_mean"))
    policy = taken(code / FILE, "compute_policy_loss", VF=helpers)
    divergence = taken(code / FILE, "compute_kl")
    rewards_B = torch.randint(0, 3, (4,), generator=draw).double() / 2
    batch = bed.batches["rollout"]
    grouped, _ = taken(code / FILE, "compute_grpo_outcome_advantage")(
        rewards_B[:, None].clone(), torch.ones(4, 1, dtype=torch.float64), ["a", "a", "b", "b"])
    ours_B = torch.cat([group_advantages(rewards_B[:2]), group_advantages(rewards_B[2:])])
    yield difference("advantages of two groups", Found(None, [ours_B + 1]), Found(None, [grouped[:, 0] + 1]))
    values = (torch.randn(4, generator=draw, dtype=torch.float64)).tolist()
    bed.batches["rollout"] = collate([replace(row, value=v) for row, v in zip(batch.rows, values, strict=True)],
                                     bed.subject.encoder.pad_id)
    with torch.no_grad():
        _, reference_BT = _padded(bed, bed.reference_model)
    advantage_BT = torch.tensor(values, dtype=torch.float64)[:, None] * _padded(bed, bed.model)[0]
    for kl in (0.0, 0.01, 1.0):
        mask_BT, logp_BT = _padded(bed, bed.model)
        theirs, *_ = policy(logp_BT.detach(), logp_BT, advantage_BT, mask_BT, **CLIP)
        gap = helpers.masked_mean(divergence(logp_BT, reference_BT, "low_var_kl"), mask_BT)
        yield difference(f"loss of a batch, kl {kl}", bed.ours(f"rule(kl={kl})"), bed.of(theirs + kl * gap))
    mask_BT, logp_BT = _padded(bed, bed.model)
    old_BT = logp_BT.detach() + 0.5 * torch.randn(logp_BT.shape, generator=draw, dtype=torch.float64)
    theirs, *_ = policy(old_BT, logp_BT, advantage_BT, mask_BT, **CLIP)
    chosen, (_, again_BT) = mask_BT.bool(), _padded(bed, bed.model)
    mine_N = grpo(again_BT[chosen], old_BT[chosen], reference_BT[chosen], advantage_BT[chosen], kl=0.0)
    yield difference("answers of another policy, clipped", bed.of(mine_N.mean()), bed.of(theirs))


def _padded(bed: Bed, model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Mask and log-probs of the answer tokens as their trainer has them, shape B T-1 each."""
    inputs = bed.inputs["rollout"]
    labels_BT = inputs["labels"][:, 1:]
    logits_BTV = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    logp_BT = logits_BTV.log_softmax(-1).gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    return (labels_BT != -100).double(), logp_BT
