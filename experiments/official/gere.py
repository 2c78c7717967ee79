"""gere against the authors' trainer: the threshold margin, on random hidden states of one row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import torch
from transformers.modeling_outputs import CausalLMOutput

from expunge.methods.retain.gere import threshold_margin
from official.bed import UNSUPERVISED, Difference, Found, difference
from official.taken import instance

REPOSITORY = "Qznan/GeRe"
COMMIT = "34d74f509e23edd5a4d37ab88b2d661f0fb8ad6b"
FILE = "gere/gere_trainer.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    random_source = torch.Generator().manual_seed(seed)
    for moved in (0.1, 1.0):
        original_BTD = torch.randn(1, 11, 16, generator=random_source).double()
        mean_D, deviation_D = original_BTD[0].mean(0), original_BTD[0].std(0)
        change_BTD = moved * torch.randn(1, 11, 16, generator=random_source).double()
        hidden_BTD = (original_BTD + change_BTD).requires_grad_(True)
        off_BTD = threshold_margin(hidden_BTD, original_BTD, mean_D - deviation_D, mean_D + deviation_D)
        ours = off_BTD.sum() / ((off_BTD > 0).sum() + 1e-8)
        trainer = instance(code / FILE, "GeReTrainer", args=SimpleNamespace(past_index=-1),
                           check_tensor=lambda *a, **k: None, printed_first_margin_loss=True, thr={"general": {
                               "pos_thr": mean_D + deviation_D, "neg_thr": mean_D - deviation_D}})
        labels_BT = torch.full((1, 11), UNSUPERVISED)
        labels_BT[0, 5:] = 1
        said = CausalLMOutput(logits=torch.randn(1, 11, 7).double(), hidden_states=(hidden_BTD,))
        theirs = trainer.compute_gere_loss(
            lambda *a, **k: said, {  # noqa: B023
                "gere_input_ids": labels_BT, "gere_labels": labels_BT, "gere_attention_mask": torch.ones(1, 11).long(),
                "gere_hidden_states": original_BTD, "gere_batch": [{"dataset": "general"}]})["gere_margin_loss"]
        mine, other = (Found(float(loss.detach()), torch.autograd.grad(loss, hidden_BTD, retain_graph=True))
                       for loss in (ours, theirs))
        yield difference(f"threshold margin, states moved by {moved}", mine, other)
