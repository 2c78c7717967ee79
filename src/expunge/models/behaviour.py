"""How a family treats padding and later tokens: found by running it, since no list of families is ever complete.

A recurrent model may carry padding on the left into its state, and then gives other answers in a batch than alone; a
model that was trained to fill in words sees the tokens that it is to predict. Both are silent. A few tokens are run
once for every config of a process and the logits compared.

Legend: B rows, T columns, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from expunge.models.fast.decoding import is_by_row

if TYPE_CHECKING:
    from expunge.models.language import CausalLM

TEXT = "The quick brown fox jumps over the lazy dog while seven wizards box in a park and 12 people watch them."
"""Tokens of it are what the model is asked; special tokens mean too much to some families."""
SHORT, LONG, NEW = 6, 11, 3
"""Tokens of the row that is padded, of the row beside it, and tokens that are decoded."""
EXACT, ROUGH, CACHE = 1e-4, 5e-2, 2e-3
"""Differences, as a share of the spread of the logits, up to which they are rounding: in float32; in fewer bits with a
cache of keys and values alone, where rounding is all there is; and in fewer bits with any other state."""
Together = Literal["any", "equal", "one"]
_DECODED: dict[str, Together] = {}
_RIGHT: dict[str, tuple[bool, bool]] = {}


def decodes_together(subject: CausalLM) -> Together:
    """Which prompts may be decoded in one batch: any, those of equal length, or one at a time.

    Those of equal length where it cannot be tried: a watched model (`Subject.bare`), or one that raises an error.
    """
    key = _key(subject)
    if key not in _DECODED:
        if not subject.bare:
            return "equal"
        _DECODED[key] = _tried(subject, _together, "equal")
    return _DECODED[key]


def pads_right(subject: CausalLM) -> bool:
    """Whether a row before padding is scored as it is alone; True for a watched model that was never tried."""
    return _ahead(subject)[0]


def is_causal(subject: CausalLM) -> bool:
    """Whether a token changes nothing at the positions before it, so that predicting it means something."""
    return _ahead(subject)[1]


def _ahead(subject: CausalLM) -> tuple[bool, bool]:
    key = _key(subject)
    if key not in _RIGHT:
        if not subject.bare:
            return True, True
        _RIGHT[key] = _tried(subject, _right, (False, True))
    return _RIGHT[key]


def _key(subject: CausalLM) -> str:
    """Weights do not matter, and an adapter changes no architecture."""
    model = subject.model.get_base_model() if hasattr(subject.model, "peft_config") else subject.model
    return f"{type(model).__name__}{model.dtype}{subject.device.type}{model.config.to_json_string()}"


def _tried(subject: CausalLM, check: Any, otherwise: Any) -> Any:
    with subject.evaluating():
        try:
            return check(subject)
        except Exception:  # a family that cannot be run this way says so where it is run
            return otherwise


def _together(subject: CausalLM) -> Together:
    tokens = _tokens(subject)
    short, other, long = tokens[:SHORT], tokens[LONG: LONG + SHORT], tokens[SHORT: SHORT + LONG]
    alone, state = _decoded(subject, [short])
    exact = subject.model.dtype in (torch.float32, torch.float64)
    limit = EXACT if exact else ROUGH if is_by_row(state) else CACHE

    def same(*prompts: list[int]) -> bool:
        beside, _ = _decoded(subject, prompts)
        return all(_differ(a_BV[0], b_BV[0]) < limit for a_BV, b_BV in zip(alone, beside, strict=True))

    return "any" if same(short, long) else "equal" if same(short, other) else "one"


def _decoded(subject: CausalLM, prompts: Sequence[Sequence[int]]) -> tuple[tuple[Tensor, ...], Any]:
    """Logits of every new token, shape B V each, and the state that is left behind."""
    from expunge.models.decoding import left_padded

    ids_BT, mask_BT = left_padded(prompts, subject.encoder.pad_id)
    found = subject.model.generate(
        input_ids=ids_BT.to(subject.device), attention_mask=mask_BT.to(subject.device), do_sample=False, num_beams=1,
        max_new_tokens=NEW, eos_token_id=None, pad_token_id=subject.encoder.pad_id, output_logits=True,
        return_dict_in_generate=True)
    return found.logits, getattr(found, "past_key_values", None)


def _right(subject: CausalLM) -> tuple[bool, bool]:
    tokens = _tokens(subject)
    short, long = tokens[:SHORT], tokens[SHORT: SHORT + LONG]
    at = SHORT // 2
    other = [*short[:at], *long[: SHORT - at]]
    alone_TV = _logits(subject, [short])[0]
    padded_TV = _logits(subject, [short, long])[0, :SHORT]
    other_TV = _logits(subject, [other])[0]
    limit = EXACT if subject.model.dtype in (torch.float32, torch.float64) else ROUGH
    return _differ(alone_TV, padded_TV) < limit, _differ(alone_TV[:at], other_TV[:at]) < limit


def _logits(subject: CausalLM, rows: Sequence[Sequence[int]]) -> Tensor:
    width = max(map(len, rows))
    ids_BT = torch.tensor([[*row, *[subject.encoder.pad_id] * (width - len(row))] for row in rows])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    found: Tensor = subject.model(input_ids=ids_BT.to(subject.device), attention_mask=mask_BT.to(subject.device),
                                  use_cache=False).logits
    return found


def _differ(a: Tensor, b: Tensor) -> float:
    """Largest difference as a share of the spread."""
    spread = float(a.double().std())
    return float((a.double() - b.double()).abs().max()) / max(spread, 1e-12)


def _tokens(subject: CausalLM) -> list[int]:
    """As many ordinary tokens as are needed."""
    processor = subject.encoder.processor
    special = set(processor.all_special_ids)
    vocabulary = subject.model.get_input_embeddings().weight.shape[0]
    found = [t for t in processor(TEXT, add_special_tokens=False)["input_ids"] if t not in special and t < vocabulary]
    return (found * (SHORT + LONG))[: SHORT + LONG]
