"""A logit guard inside vLLM. It works with the versions that were read, and refuses all others: it fails closed.

vLLM loads logits processors when its engine starts. Up to 0.29 they have one interface (`vllm.v1.sample`). From 0.30 on
a newer runner may take their place, which rejects processors of that interface; there the older runner must be chosen
(VLLM_USE_V2_MODEL_RUNNER=0). Nothing of this was run on vLLM: it follows its documentation, and is tested against a
fake.

Legend: V vocabulary.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge.errors import ExpungeError, MissingExtra, UsageError

LogitGuard = Callable[[Sequence[int], Sequence[int], Tensor], Tensor]
"""(tokens of the prompt, tokens said so far, logits_V) -> logits_V."""
FIRST, TWO_RUNNERS, UNREAD = (0, 11), (0, 30), (0, 33)
"""The first version with the interface, the first with two runners, and the first that nobody here has read about."""
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


def check_vllm(version: str, environment: Mapping[str, str] = os.environ) -> None:
    """Raises UsageError unless this version of vLLM is known to carry out the guard."""
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    known = f"Known are {FIRST[0]}.{FIRST[1]} up to, but not with, {UNREAD[0]}.{UNREAD[1]}."
    if not FIRST <= number < UNREAD:
        raise UsageError(f"vLLM {version} is not known to carry out a guard on logits.", known,
                         "Install a known version, or serve with `expunge serve`.")
    if environment.get(RUNNER, "0" if number < TWO_RUNNERS else "") != "0":
        raise UsageError(f"vLLM {version} may use its newer runner, which rejects this guard.",
                         "Without the guard the model would answer what it must not.",
                         f"Set {RUNNER}=0 before vLLM starts, or serve with `expunge serve`.")


def processor_class(guard: LogitGuard, end: int, canary: Sequence[int]) -> type:
    """A class for `LLM(logits_processors=[...])` that puts the guard before every request, whatever it asks for.

    Where the guard fails, or gives logits of another shape or NaN, the answer ends there.

    Args:
        end: the token that ends an answer.
        canary: a prompt that is always answered with `end` alone; `check_guarded` asks it.

    Raises:
        MissingExtra: vLLM is not installed.
        UsageError: its version is not known to carry out the guard.
    """
    try:
        check_vllm(str(importlib.import_module("vllm").__version__))
        base: Any = importlib.import_module("vllm.v1.sample.logits_processor").AdapterLogitsProcessor
    except ImportError as error:
        raise MissingExtra("vLLM is not installed, or has no logits processors of the known kind.", str(error),
                           "Install vLLM, or serve with `expunge serve`.") from None
    asked = list(canary)

    def only_end(logits_V: Tensor) -> Tensor:
        closed_V = torch.full_like(logits_V, -torch.inf)
        closed_V[end] = 0.0
        return closed_V

    def guarded(prompt: list[int], said: list[int], logits_V: Tensor) -> Tensor:
        if list(prompt or ()) == asked:
            return only_end(logits_V)
        try:
            made_V = guard(prompt, said, logits_V.clone())
            sound = made_V.shape == logits_V.shape and not bool(made_V.isnan().any())
        except Exception:  # whatever it was: no answer rather than an unguarded one
            sound = False
        return made_V if sound else only_end(logits_V)

    class Guarded(base):
        """The guard, for every request."""

        def is_argmax_invariant(self) -> bool:
            return False  # else greedy requests would skip it

        def new_req_logits_processor(self, params: Any) -> Any:
            return guarded

    return Guarded


def check_guarded(llm: Any, end: int, canary: Sequence[int]) -> None:
    """Ask a running vLLM the canary before anyone else asks it anything.

    Raises:
        ExpungeError: it did not answer with the end token alone: the guard does not run.
    """
    settings = importlib.import_module("vllm").SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True)
    said = llm.generate([{"prompt_token_ids": list(canary)}], settings)[0].outputs[0].token_ids
    if list(said) != [end]:
        raise ExpungeError("vLLM runs without the guard.", "It answered the canary as the model would.",
                           "Stop it. Check that the class is among its logits_processors.")
