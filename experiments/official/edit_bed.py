"""What code that edits facts is asked about: prompts of token numbers, and their value descent on our tiny model.

Legend: D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from expunge.data.text_encoder import TokenRow, collate
from expunge.methods._lib.value_descent import ValueDescent
from expunge.models.sites import Site
from official.bed import Bed
from official.taken import taken

LAYER, DEPTH = 1, 4
SUBJECT, PROMPT, TARGET = "41 42 43", "7 {} 19 20", "60 61"
CONTEXTS = ("{}", "11 12 13 {}", "14 {}")
ESSENCE = "{} is a"
WORDS = {"is": 30, "a": 31}
KEEP, DECAY = 0.0625, 0.5


class Numbers(dict[str, Any]):
    """What their tokenizer returns; it is never moved to a GPU."""

    def to(self, device: str) -> Numbers:
        return self


class Tokenizer:
    """A text is a row of numbers, and each is a token."""

    bos_token_id = unk_token_id = -1

    def __call__(self, text: str | Sequence[str], return_tensors: str = "", padding: bool = False) -> Numbers:
        if isinstance(text, str) and not return_tensors:
            return Numbers(input_ids=ids_of(text))
        rows = [ids_of(one) for one in ([text] if isinstance(text, str) else text)]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        return Numbers(input_ids=ids, attention_mask=torch.tensor(
            [[1] * len(row) + [0] * (width - len(row)) for row in rows]))

    def decode(self, ids: Any) -> str:
        return "".join(f" {int(i)}" for i in torch.as_tensor(ids).reshape(-1))


def ids_of(text: str) -> list[int]:
    return [WORDS[word] if word in WORDS else int(word) for word in text.split()]


def place(template: str) -> int:
    """Where the subject ends in a prompt."""
    return len(ids_of(template.split("{}")[0] + SUBJECT)) - 1


class OnCpu:
    """`torch`, with tensors in float64 where theirs go to a GPU in float32."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def zeros(size: Sequence[int], requires_grad: bool = False, device: str = "") -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64, requires_grad=requires_grad)

    @staticmethod
    def tensor(value: Any, device: str = "") -> torch.Tensor:
        return torch.tensor(value)


def names_for(code: Path, in_tuples: bool) -> dict[str, Any]:
    """Names in place of their imports: nethook, repr_tools, torch.

    Args:
        in_tuples: what is traced is handed over in tuples, as blocks returned it when their code was written.
    """
    trace: Callable[..., Any] = taken(code / "util" / "nethook.py", "TraceDict")

    def traced(module: Any, layers: Sequence[str], edit_output: Any, **options: Any) -> Any:
        def edit(output: Any, layer: str) -> Any:
            found = edit_output((output,) if in_tuples else output, layer)
            return found[0] if in_tuples else found

        return _Tuples(trace(module=module, layers=layers, edit_output=edit, **options), in_tuples)

    found = {name: taken(code / "util" / "nethook.py", name) for name in ("get_parameter", "get_module",
                                                                          "set_requires_grad")}
    where = SimpleNamespace(get_words_idxs_in_templates=lambda tok, context_templates, words, subtoken: [
        [place(template)] for template in context_templates])
    return {"nethook": SimpleNamespace(TraceDict=traced, **found), "repr_tools": where, "torch": OnCpu(),
            "print": print_nothing}


def print_nothing(*words: Any) -> None:
    """In place of print."""


class _Tuples:
    def __init__(self, inner: Any, in_tuples: bool) -> None:
        self.inner, self.in_tuples = inner, in_tuples

    def __enter__(self) -> _Tuples:
        self.inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.inner.close()

    def __getitem__(self, layer: str) -> Any:
        output = self.inner[layer].output
        return SimpleNamespace(output=(output,) if self.in_tuples else output)


def hparams(steps: int, rate: float, clamp: float) -> SimpleNamespace:
    return SimpleNamespace(
        lm_head_module="lm_head", ln_f_module="model.norm", fact_token="subject_last", v_loss_layer=DEPTH - 1,
        layer_module_tmp="model.layers.{}", mlp_module_tmp="model.layers.{}.mlp", v_lr=rate, v_num_grad_steps=steps,
        rewrite_module_tmp="model.layers.{}.mlp.down_proj", kl_factor=KEEP, v_weight_decay=DECAY,
        clamp_norm_factor=clamp, mom2_adjustment=True, mom2_dataset="", mom2_n_samples=0, mom2_dtype="float32")


REQUEST = {"prompt": PROMPT, "subject": SUBJECT, "target_new": {"str": TARGET}}


def our_rows() -> list[TokenRow]:
    """The same prompts and target, and what follows the subject's name."""
    rows = []
    for context in CONTEXTS:
        prompt = ids_of(context.format(PROMPT).format(SUBJECT))
        rows.append(TokenRow(context, (*prompt, *ids_of(TARGET)), len(prompt), 2, 0))
    essence, at = ids_of(ESSENCE.format(SUBJECT)), place(ESSENCE)
    return [*rows, TokenRow("essence", tuple(essence[: at + 2]), at + 1, 1, 0)]


def our_places() -> torch.Tensor:
    return torch.tensor([*(place(context.format(PROMPT)) for context in CONTEXTS), place(ESSENCE)])


def our_descent(bed: Bed, slot: Any, start_D: torch.Tensor) -> ValueDescent:
    batch = collate(our_rows(), bed.subject.encoder.pad_id)
    return ValueDescent(bed.subject, Site(LAYER, slot), batch, our_places(), start_D, keep=KEEP, decay=DECAY)
