"""lau against the authors' attack: the perturbation of one row from zero, without padding."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge.methods._lib.latent import pushed
from expunge.methods.perturb.lau import LAU
from expunge.models.sites import read
from official.bed import Bed, Difference, Found, as_inputs, difference
from official.taken import instance

REPOSITORY = "HongbangYuan/RobustUnlearning"
COMMIT = "70a85e8d930d4f234b1c84981bc5e11b4f534a91"
FILE = "LLaMA_Factory/src/llmtuner/train/adv_npo/trainer.py"


def compare(code: Path, seed: int) -> Iterator[Difference]:
    bed = Bed(seed)
    for kappa, steps, layer in ((1.0, 1, 2), (8.0, 6, 2), (4.0, 3, 1)):
        batch = bed.rows("forget", [(4, 9)])
        made = LAU(kappa=kappa, steps=steps, layer=layer, random=False)
        site = made.site(bed.subject)

        def model(get_latents: bool = False, perturbation: Any = None, perturb_layer: int = 0,
                  perturb_target: str = "", site: Any = site, **inputs: Any) -> Any:
            with (pushed(bed.subject, [site] if perturbation is not None else [], [perturbation]
                         if perturbation is not None else []), read(bed.subject, [site]) as values):
                said = bed.model(**inputs)
            return (values[0][0], said) if get_latents else said

        trainer = instance(code / FILE, "LATSFTTrainer", norm_type="l2", perturb_layer=layer,
                           perturb_target="residuals", label_smoother=None, random_init=False, steps=steps,
                           epsilon=kappa, std_normalization=False, keep_in_eval=True)
        shell = _Shell(model, bed.model)
        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            theirs = trainer.adv_attack(shell, **as_inputs(batch))
        bed.model.zero_grad(set_to_none=True)
        ours = made.worst(bed.subject, batch, 0)
        yield difference(f"kappa {kappa}, {steps} steps, block {layer}", Found(None, [ours]), Found(None, [theirs]))


class _Shell:
    """Their attack's way to call a model, around ours."""

    training = False

    def __init__(self, call: Any, model: Any) -> None:
        self._call, self._model = call, model

    def __call__(self, **inputs: Any) -> Any:
        return self._call(**inputs)

    def eval(self) -> None:
        self._model.eval()

    def zero_grad(self) -> None:
        self._model.zero_grad()
