"""A model and a tokenizer of theirs that say what a case asks for."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from scored.cases import Chain

CPU = torch.device("cpu")


class Says:
    """Tokenizer and model in one: every text is one token, and the next generation is the next of `answers`."""

    device = CPU
    eos_token_id = pad_token_id = 0
    padding_side = "left"

    def __init__(self, answers: Sequence[str]) -> None:
        self.texts, self.answers, self.prompts = [""], iter(answers), list[str]()

    def _id(self, text: str) -> int:
        self.texts.append(text)
        return len(self.texts) - 1

    def __call__(self, text: str | Sequence[str], **_: Any) -> Any:
        texts = [text] if isinstance(text, str) else text
        return Inputs(input_ids=torch.tensor([[self._id(one)] for one in texts]),
                      attention_mask=torch.ones(len(texts), 1).long())

    def generate(self, input_ids: torch.Tensor, **_: Any) -> torch.Tensor:
        self.prompts += [self.texts[int(row[-1])] for row in input_ids]
        said_B1 = torch.tensor([[self._id(next(self.answers))] for _ in input_ids])
        return torch.cat([input_ids, said_B1], 1)

    def batch_decode(self, ids_BT: torch.Tensor, **_: Any) -> list[str]:
        return ["".join(self.texts[int(token)] for token in row) for row in ids_BT]

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        return messages[-1]["content"]

    def convert_tokens_to_ids(self, token: str) -> int:
        return 0

    def to(self, device: Any) -> Says:
        return self

    def eval(self) -> Says:
        return self


class Inputs(dict):  # type: ignore[type-arg]
    """What a tokenizer returns: fields by name and by attribute. An attribute is a copy, as a move to a GPU makes one:
    their code writes labels into it."""

    def __getattr__(self, name: str) -> Any:
        return self[name].clone()

    def to(self, device: Any) -> Inputs:
        return self


class Knows:
    """Tokenizer and model of a `Chain`."""

    device = CPU
    padding_side = "right"

    def __init__(self, chain: Chain) -> None:
        self.chain = chain

    def encode(self, text: str) -> list[int]:
        return self.chain.ids(text)

    def tokenizer(self, text: str | Sequence[str], **_: Any) -> Inputs:
        texts = [text] if isinstance(text, str) else text
        return Inputs(input_ids=torch.tensor([self.chain.ids(one) for one in texts]))

    def __call__(self, input_ids: torch.Tensor, labels: torch.Tensor | None = None, **_: Any) -> Any:
        logits_BTV = torch.from_numpy(self.chain.logits_VV)[input_ids]
        logits_BTV = torch.from_numpy(self.chain.logits_VV)[input_ids]
        counted = labels if labels is not None else input_ids
        loss = torch.nn.functional.cross_entropy(logits_BTV[:, :-1].flatten(0, 1), counted[:, 1:].flatten())
        return Said((loss, logits_BTV))

    def to(self, device: Any) -> Knows:
        return self

    def eval(self) -> Knows:
        return self


class Said(tuple):  # type: ignore[type-arg]
    """(loss, logits), by place and by name."""

    @property
    def loss(self) -> torch.Tensor:
        return self[0]  # type: ignore[no-any-return]

    @property
    def logits(self) -> torch.Tensor:
        return self[1]  # type: ignore[no-any-return]


class Chooses:
    """Tokenizer and model whose next-token logits are a row of `letters_N4` per prompt; option letters are 0 to 3."""

    device = CPU
    padding_side = "left"

    def __init__(self, letters_N4: np.ndarray[Any, Any]) -> None:
        self.letters, self.asked = torch.from_numpy(letters_N4), 0

    def __call__(self, prompts: Any = None, input_ids: torch.Tensor | None = None, **_: Any) -> Any:
        if input_ids is None:
            return Inputs(input_ids=torch.zeros(len(prompts), 1).long(), attention_mask=torch.ones(len(prompts), 1))
        rows = self.letters[self.asked: self.asked + len(input_ids)]
        self.asked += len(input_ids)
        return SimpleNamespace(logits=rows[:, None])

    def encode(self, text: str, **_: Any) -> list[int]:
        return [ord(text[-1]) - ord("A")]

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        return messages[-1]["content"]
