"""The key-value cache of a guarded model: the target's, that of the second pass, and what was decided of each row.

Legend: B rows, T columns.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from expunge.guards.detector import Finding
from expunge.guards.frame import Prompt


class GuardCache(DynamicCache):
    """The decision is taken once, on the prompt; every later token is read under it.

    Args:
        config: the target's.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.second = DynamicCache(config=config)
        self.mask_BT: Tensor | None = None
        """Attention mask of the second pass, once a row has fired."""
        self.decided: list[tuple[Prompt, Finding]] | None = None

    @property
    def fired(self) -> bool:
        return any(finding.fired for _, finding in self.decided or ())

    def reset(self) -> None:
        super().reset()
        self.second.reset()
        self.mask_BT = self.decided = None

    def crop(self, max_length: int) -> None:
        if self.mask_BT is not None:
            dropped = self.get_seq_length() - max_length if max_length > 0 else -max_length
            left = self.mask_BT.shape[1] - max(dropped, 0)
            self.second.crop(left)
            self.mask_BT = self.mask_BT[:, :left]
        super().crop(max_length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._pick(beam_idx, lambda: self.second.reorder_cache(beam_idx))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._pick(indices, lambda: self.second.batch_select_indices(indices))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        rows = len(self.decided or ())
        index = torch.arange(rows).repeat_interleave(repeats)
        self._pick(index, lambda: self.second.batch_repeat_interleave(repeats))

    def _pick(self, index_B: Tensor, second: Any) -> None:
        if self.mask_BT is not None:
            second()
            self.mask_BT = self.mask_BT[index_B.to(self.mask_BT.device)]
        if self.decided is not None:
            self.decided = [self.decided[i] for i in index_B.tolist()]
