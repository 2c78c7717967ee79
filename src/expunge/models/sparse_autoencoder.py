"""Sparse autoencoders: one trained on the spot on the states of a block, or read from a file in the SAE-lens format.

Legend: N positions (flat), D hidden size, F latents.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from expunge import plugin
from expunge.errors import MissingError, UsageError
from expunge.models.language import CausalLM
from expunge.models.sites import SparseAutoencoder
from expunge.records.task import Example
from expunge.seeding import derive

Architecture = Literal["standard", "topk", "jumprelu"]
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ALLOWED = {"normalize_activations": ("none", None), "reshape_activations": ("none", None),
           "rescale_acts_by_decoder_norm": (False, None), "finetuning_scaling_factor": (False, None),
           "activation_fn": ("relu", "topk", None), "activation_fn_str": ("relu", "topk", None)}
"""Keys of a configuration -> the values that are supported; others would change what a latent means."""
OTHERWISE = "Name another, or leave it out to train one."


class SAEOptions(plugin.Spec):
    """Options of a plug-in that reads or trains an autoencoder of the original."""

    sae: str | None = Field(None, description="Folder of an autoencoder of the original's output, in the SAE-lens "
                                              "format; without it one is trained first.")
    expansion: int = Field(4, ge=1, description="Latents of the trained one, times the hidden size.")
    k: int = Field(16, ge=1, description="Latents of the trained one that are active at a position.")
    train: int = Field(400, ge=1, description="Steps that train it.")


class Quality(NamedTuple):
    """How well an autoencoder describes some states."""

    explained: float
    """Explained variance: 1 - sum ||h - h_hat||^2 / sum ||h - mean h||^2."""
    active: float
    """Mean number of latents above 0."""
    dead: float
    """Share of latents that are 0 at every position."""


@dataclass(frozen=True)
class SAE:
    """Encoder and decoder as tensors that never train again.

    Args:
        w_enc_DF, b_enc_F: of the encoder.
        w_dec_FD, b_dec_D: of the decoder.
        k: latents that stay, of topk.
        threshold_F: pre-activation above which a latent counts, of jumprelu.
        centred: whether b_dec is subtracted from what is encoded (`apply_b_dec_to_input`).
    """

    w_enc_DF: Tensor
    b_enc_F: Tensor
    w_dec_FD: Tensor
    b_dec_D: Tensor
    architecture: Architecture = "topk"
    k: int = 0
    threshold_F: Tensor | None = None
    centred: bool = True

    @property
    def latents(self) -> int:
        return len(self.b_enc_F)

    @property
    def scale_F(self) -> Tensor:
        """Norms of the decoder's rows: times these, latents have a common unit."""
        return self.w_dec_FD.norm(dim=-1)

    def pre(self, states: Tensor) -> Tensor:
        """Pre-activations, shape ... F."""
        given = states.to(self.w_enc_DF.dtype)
        return (given - self.b_dec_D if self.centred else given) @ self.w_enc_DF + self.b_enc_F

    def activate(self, pre: Tensor) -> Tensor:
        """Latents from pre-activations; no gradient reaches those that are 0."""
        if self.architecture == "topk":
            top = pre.topk(min(self.k, pre.shape[-1]), dim=-1)
            return torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        latents = pre.relu()
        return latents if self.threshold_F is None else latents * (pre > self.threshold_F)

    def encode(self, states: Tensor) -> Tensor:
        """... D -> ... F."""
        return self.activate(self.pre(states))

    def decode(self, latents: Tensor) -> Tensor:
        """... F -> ... D."""
        return latents @ self.w_dec_FD + self.b_dec_D

    def at_site(self) -> SparseAutoencoder:
        """For `Site(block, "sae", sae=...)`: what is written there moves the states by the difference alone."""
        return SparseAutoencoder(self.encode, self.decode)

    def to(self, device: torch.device | str) -> SAE:
        """On another device."""
        moved: dict[str, Any] = {name: value.to(device) for name, value in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by field."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def packed(self) -> dict[str, Any]:
        """As plain data (JSON)."""
        from safetensors.torch import save

        plain = {"architecture": self.architecture, "k": self.k, "centred": self.centred}
        tensors = {name: value.cpu().contiguous() for name, value in self.tensors().items()}
        return plain | {"tensors": base64.b64encode(save(tensors)).decode()}


def unpacked(made: Mapping[str, Any]) -> SAE:
    """What `packed` returned, as it was."""
    from safetensors.torch import load

    plain = {name: value for name, value in made.items() if name != "tensors"}
    return SAE(**plain, **load(base64.b64decode(made["tensors"])))


def quality(sae: SAE, states_ND: Tensor) -> Quality:
    """How well these states are described."""
    with torch.no_grad():
        latents_NF, states_ND = sae.encode(states_ND), states_ND.to(sae.b_dec_D.dtype)
        left = (states_ND - sae.decode(latents_NF)).square().sum()
        spread = (states_ND - states_ND.mean(0)).square().sum()
    on_NF = latents_NF > 0
    return Quality(float(1 - left / spread.clamp_min(1e-12)), float(on_NF.sum(1).float().mean()),
                   float((~on_NF.any(0)).float().mean()))


def block_states(subject: CausalLM, examples: Sequence[Example], block: int) -> Tensor:
    """Output of a block at every real position but each row's first, which many families use as a sink; shape N D,
    float32 on the CPU."""
    rows = [subject.encoder.encode(example) for example in examples]
    found: list[Tensor] = []
    with subject.evaluating():
        for part in subject.encoder.batches(rows):
            batch = subject.collate([rows[i] for i in part])
            real_BT = batch.attention_BT.bool().clone()
            real_BT[:, 0] = False
            found.append(subject.hidden(batch, block)[real_BT].float().cpu())
    return torch.cat(found)


def fit_sae(states_ND: Tensor, *, latents: int, k: int, steps: int = 400, batch: int = 256, lr: float = 1e-3,
            seed: int = 0, progress: Callable[[int], None] | None = None) -> SAE:
    """A TopK autoencoder of these states: pre-bias at their mean, encoder tied to the decoder at the start, mean
    squared error, Adam. States are brought to unit size meanwhile, so that the learning rate fits any model."""
    generator = torch.Generator().manual_seed(derive(seed, "sparse autoencoder"))
    states_ND = states_ND.float()
    mean_D = states_ND.mean(0)
    size = (states_ND - mean_D).square().mean().sqrt().clamp_min(1e-8)
    w_dec_FD = torch.nn.functional.normalize(torch.randn(latents, len(mean_D), generator=generator), dim=-1).to(mean_D)
    parts = w_dec_FD.T.clone(), mean_D.new_zeros(latents), w_dec_FD, mean_D / size
    with torch.enable_grad():
        for part in parts:
            part.requires_grad_(True)
        sae, optimizer = SAE(*parts, k=k), torch.optim.Adam(parts, lr=lr)
        for _ in range(steps):
            chosen = torch.randint(len(states_ND), (min(batch, len(states_ND)),), generator=generator)
            given_ND = states_ND[chosen] / size
            loss = (sae.decode(sae.encode(given_ND)) - given_ND).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress:
                progress(1)
    w_enc_DF, b_enc_F, w_dec_FD, b_dec_D = (part.detach() for part in parts)
    return SAE(w_enc_DF / size, b_enc_F, w_dec_FD * size, b_dec_D * size, k=k)


def save_sae(sae: SAE, folder: Path) -> None:
    """As a folder in the SAE-lens format."""
    from safetensors.torch import save_file

    named = {"W_enc": sae.w_enc_DF, "b_enc": sae.b_enc_F, "W_dec": sae.w_dec_FD, "b_dec": sae.b_dec_D}
    if sae.threshold_F is not None:
        named["threshold"] = sae.threshold_F
    config = {"architecture": sae.architecture, "d_in": len(sae.b_dec_D), "d_sae": sae.latents,
              "apply_b_dec_to_input": sae.centred, "normalize_activations": "none", "dtype": "float32"}
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.cpu().contiguous() for name, value in named.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config | ({"k": sae.k} if sae.architecture == "topk" else {}), indent=1))


def load_sae(folder: str | Path, width: int, block: int | None = None) -> SAE:
    """One that is stored in the SAE-lens format: `cfg.json` beside `sae_weights.safetensors`.

    Args:
        width: of the states that it has to encode.
        block: whose output they are; not compared where it is left out or where the file names no place.

    Raises:
        MissingError: a file is missing.
        UsageError: a file cannot be read, the autoencoder is for another width or another place, or of a kind that is
            not supported.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder, (architecture, k, centred) = Path(folder), check_sae(folder)
    place = trained_at(folder)
    if block is not None and place not in ("", f"blocks.{block}.hook_resid_post", f"blocks.{block + 1}.hook_resid_pre"):
        raise UsageError(f"The sparse autoencoder in {folder} is for another place of the model.",
                         f"It was trained on {place}, and here it would read the output of block {block}.",
                         "Name the block that it belongs to, or another autoencoder.")
    try:
        named = load_file(folder / WEIGHTS)
    except SafetensorError as error:
        raise _unreadable(folder, str(error)) from None
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if architecture == "jumprelu" else [])):
        if name not in named:
            raise UsageError(f"The sparse autoencoder in {folder} is not complete.", f"{WEIGHTS} holds no {name}.")
    tensors = {name: value.float() for name, value in named.items()}
    shape = tuple(tensors["W_enc"].shape)
    wrong = [name for name, wanted in (("W_dec", shape[::-1]), ("b_enc", shape[1:]), ("b_dec", shape[:1]),
                                       *([("threshold", shape[1:])] if architecture == "jumprelu" else []))
             if tuple(tensors[name].shape) != wanted]
    if len(shape) != 2 or wrong:
        raise UsageError(f"The sparse autoencoder in {folder} does not fit together.",
                         f"W_enc has the shape {shape}; {', '.join(wrong) or 'it'} does not fit.")
    if shape[0] != width:
        raise UsageError(f"The sparse autoencoder in {folder} is for another model.",
                         f"It encodes states of size {shape[0]}, and those of this model have {width}.",
                         "Name one that was trained on this model, or leave it out to train one.")
    return SAE(tensors["W_enc"], tensors["b_enc"], tensors["W_dec"], tensors["b_dec"], architecture, k,
               tensors["threshold"] if architecture == "jumprelu" else None, centred)


def check_sae(folder: str | Path) -> tuple[Architecture, int, bool]:
    """Architecture, k and `centred` of a stored one, without its weights. Raises as `load_sae`."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise MissingError(f"There is no sparse autoencoder in {folder}.", f"It has no {name}.",
                               f"Give a folder in the SAE-lens format: {CONFIG} beside {WEIGHTS}.")
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(folder, str(error)) from None
    if not isinstance(config, dict):
        raise _unreadable(folder, f"{CONFIG} is not one JSON object.")
    said, inner = config.get("architecture", "standard"), config.get("activation_fn_kwargs")
    if said == "standard" and "topk" in (config.get("activation_fn"), config.get("activation_fn_str")):
        said = "topk"  # as older versions wrote it
    k = config.get("k", inner.get("k") if isinstance(inner, dict) else None)
    if said not in ("standard", "topk", "jumprelu"):
        raise UsageError(f"The sparse autoencoder in {folder} is of the kind {said!r}.",
                         "Supported are standard, topk and jumprelu.", OTHERWISE)
    if said == "topk" and not (isinstance(k, int) and k > 0):
        raise UsageError(f"The sparse autoencoder in {folder} is a topk one without k.", f"{CONFIG} names no count.",
                         OTHERWISE)
    for key, allowed in ALLOWED.items():
        if config.get(key) not in allowed:
            raise UsageError(f"The sparse autoencoder in {folder} needs {key}={config[key]!r}.",
                             f"Supported is {key}={allowed[0]!r}.", OTHERWISE)
    return said, int(k or 0), bool(config.get("apply_b_dec_to_input", True))


def trained_at(folder: Path) -> str:
    """Where it was trained, such as `blocks.5.hook_resid_post`; empty if the configuration, which `check_sae` has read,
    does not say."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    inner = config.get("metadata")
    return str(config.get("hook_name") or (inner.get("hook_name") if isinstance(inner, dict) else None) or "")


def _unreadable(folder: Path, why: str) -> UsageError:
    return UsageError(f"The sparse autoencoder in {folder} cannot be read.", why.splitlines()[0][:200],
                      "Store it again with the package that made it.")
