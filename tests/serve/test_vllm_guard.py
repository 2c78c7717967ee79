"""The contract of the vLLM adapter, against a fake of vLLM: it cannot be installed here."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from expunge.errors import ExpungeError, MissingExtra, UsageError
from expunge.serve.vllm_guard import RUNNER, check_guarded, check_vllm, processor_class

END, CANARY = 3, (7, 7, 7)


class Adapter:
    """As vLLM's: one callable per request, given prompt, output and logits."""


class FakeEngine:
    """One token, greedily, through the processors that it was given."""

    def __init__(self, processors: list[type]) -> None:
        self.made = [kind() for kind in processors]

    def generate(self, prompts: list[Any], settings: Any) -> list[Any]:
        prompt, logits = prompts[0]["prompt_token_ids"], torch.arange(10.0)
        for one in self.made:
            assert not one.is_argmax_invariant()
            logits = one.new_req_logits_processor(settings)(prompt, [], logits)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[int(logits.argmax())])])]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made, inner = ModuleType("vllm"), ModuleType("vllm.v1.sample.logits_processor")
    made.__version__ = "0.11.2"  # type: ignore[attr-defined]
    made.SamplingParams = lambda **options: SimpleNamespace(**options)  # type: ignore[attr-defined]
    inner.AdapterLogitsProcessor = Adapter  # type: ignore[attr-defined]
    for name in ("vllm.v1", "vllm.v1.sample"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm", made)
    monkeypatch.setitem(sys.modules, "vllm.v1.sample.logits_processor", inner)
    monkeypatch.delenv(RUNNER, raising=False)
    return made


@pytest.mark.parametrize(("version", "runner", "known"), [
    ("0.10.2", None, False), ("0.11.0", None, True), ("0.29.1", None, True), ("0.29.1", "1", False),
    ("0.30.0", None, False), ("0.30.0", "0", True), ("0.32.0", "1", False), ("0.33.0", "0", False),
    ("1.0", "0", False), ("nightly", None, False)])
def test_versions(version: str, runner: str | None, known: bool) -> None:
    environment = {} if runner is None else {RUNNER: runner}
    if known:
        return check_vllm(version, environment)
    with pytest.raises(UsageError):
        check_vllm(version, environment)


def test_the_guard_stands_before_every_request(vllm: ModuleType) -> None:
    def hides_nine(prompt: Any, said: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[9] = -torch.inf
        return logits

    engine = FakeEngine([processor_class(hides_nine, END, CANARY)])
    assert engine.generate([{"prompt_token_ids": [1]}], None)[0].outputs[0].token_ids == [8]
    check_guarded(engine, END, CANARY)


@pytest.mark.parametrize("guard", [
    lambda prompt, said, logits: 1 / 0, lambda prompt, said, logits: logits[:4], lambda prompt, said, logits: None,
    lambda prompt, said, logits: logits * torch.nan])
def test_a_guard_that_fails_ends_the_answer(vllm: ModuleType, guard: Any) -> None:
    engine = FakeEngine([processor_class(guard, END, CANARY)])
    assert engine.generate([{"prompt_token_ids": [1]}], None)[0].outputs[0].token_ids == [END]


def test_an_engine_without_the_guard_is_noticed(vllm: ModuleType) -> None:
    with pytest.raises(ExpungeError, match="without the guard"):
        check_guarded(FakeEngine([]), END, CANARY)


def test_no_vllm_and_a_newer_one_are_refused(vllm: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm.__version__ = "0.40.0"  # type: ignore[attr-defined]
    with pytest.raises(UsageError):
        processor_class(lambda p, s, x: x, END, CANARY)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(MissingExtra):
        processor_class(lambda p, s, x: x, END, CANARY)
