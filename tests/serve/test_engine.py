"""The line of requests: bounded, left by clients who go away, and emptied before the server ends."""

from __future__ import annotations

import asyncio
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from expunge.models.language import CausalLM
from tests.serve.asking import Client, call, loaded, serving


class Slow(CausalLM):
    """Waits a little before every token, and says what it has said."""

    said, pause = 0, 0.02

    def generate(self, prompts: Any, most: int, *args: Any, watch: Any = None, **options: Any) -> Any:
        def slowly(place: int, tokens: list[int]) -> bool:
            time.sleep(self.pause)
            self.said += 1
            return bool(watch(place, tokens))

        return CausalLM.generate(self, prompts, most, *args, watch=slowly, **options)


def slow(model: Path) -> Slow:
    plain = loaded(model)
    return Slow(plain.model, plain.encoder, plain.path)


def body(**options: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": "Ada", "temperature": 0, "max_tokens": 400} | options).encode()


async def settled(client: Client) -> None:
    """Wait until nothing is answered any more."""
    for _ in range(200):
        if not client.service.engine.active:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("a slot was not freed")


async def begun(subject: Slow) -> None:
    """Wait until the model is at work."""
    for _ in range(1000):
        if subject.said:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nothing was begun")


def test_a_client_that_goes_away_frees_its_place(model: Path) -> None:
    subject, log = slow(model), io.StringIO()

    async def ask(client: Client) -> None:
        reply = await call(client.app, "POST", "/v1/completions", body(stream=True), leave_after=1)
        assert not reply.body.endswith(b"[DONE]\n\n")
        await settled(client)

    with serving(subject, log=log) as client:
        client.service.engine.pieces_show = True  # type: ignore[misc]
        asyncio.run(ask(client))
        assert subject.said < 100 and client.service.open == 0
        assert client.completion(max_tokens=2).status == 200
        assert "expunge_disconnects_total 1" in client("GET", "/metrics").body.decode()
    assert json.loads(log.getvalue().splitlines()[0])["status"] == 499


def test_a_client_that_does_not_wait_for_its_answer_frees_its_place(model: Path) -> None:
    subject = slow(model)

    async def ask(client: Client) -> None:
        asked = asyncio.create_task(call(client.app, "POST", "/v1/completions", body(), leave_after=0))
        await asked
        await settled(client)

    with serving(subject) as client:
        asyncio.run(ask(client))
        assert subject.said < 200 and client.service.open == 0


@pytest.mark.slow
def test_a_full_line_and_a_long_wait_are_told(model: Path) -> None:
    subject = slow(model)
    subject.pause = 0.1  # the first answer takes longer than the others wait

    async def ask(client: Client) -> list[Any]:
        first = asyncio.create_task(call(client.app, "POST", "/v1/completions", body(max_tokens=60)))
        await begun(subject)
        others = [asyncio.create_task(call(client.app, "POST", "/v1/completions", body(seed=i, temperature=1)))
                  for i in range(3)]
        replies = await asyncio.gather(*others)
        return [await first, *replies]

    with serving(subject, queue=2, wait=2) as client:
        first, *others = asyncio.run(ask(client))
        assert first.status == 200
        assert [reply.status for reply in others] == [503] * 3
        assert {reply.error["code"] for reply in others} == {"overloaded"}
        assert all(int(reply.headers["retry-after"]) > 0 for reply in others)
        assert client.service.engine.waiting == 0


def test_the_end_is_graceful(model: Path) -> None:
    subject = slow(model)

    async def ask(client: Client) -> tuple[Any, Any, Any]:
        taken = asyncio.create_task(call(client.app, "POST", "/v1/completions", body(max_tokens=10, stream=True)))
        await begun(subject)
        client.service.engine.drain()
        refused = await call(client.app, "POST", "/v1/completions", body())
        ready = await call(client.app, "GET", "/readyz")
        return await taken, refused, ready

    with serving(subject) as client:
        taken, refused, ready = asyncio.run(ask(client))
    assert taken.events[-1] == "[DONE]"
    assert (refused.status, refused.error["code"], ready.status) == (503, "shutting_down", 503)


def test_a_stream_that_is_broken_off_says_so(model: Path) -> None:
    subject = slow(model)

    async def ask(client: Client) -> Any:
        taken = asyncio.create_task(call(client.app, "POST", "/v1/completions", body(stream=True)))
        await begun(subject)
        client.service.engine.stop()
        return await taken

    with serving(subject) as client:
        events = asyncio.run(ask(client)).events
    assert events[-1]["error"]["code"] == "shutting_down"


class Broken(CausalLM):
    """Fails for one prompt, as a bug of ours would."""

    def generate(self, prompts: Any, *args: Any, **options: Any) -> Any:
        if any(len(prompt) > 12 for prompt in prompts):
            raise KeyError("the secret words")
        return CausalLM.generate(self, prompts, *args, **options)


def test_our_own_mistake_is_a_500_without_a_trace_and_the_next_request_is_answered(model: Path) -> None:
    plain, log = loaded(model), io.StringIO()
    with serving(Broken(plain.model, plain.encoder, plain.path), log=log) as client:
        reply = client.completion("Ada " * 20)
        assert (reply.status, reply.error["code"]) == (500, "internal_error")
        assert client.completion("Ada").status == 200
    assert "secret words" not in log.getvalue() + reply.body.decode()
    assert json.loads(log.getvalue().splitlines()[0])["type"] == "KeyError"


class Full(io.StringIO):
    """A disk that is full."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_under_the_log_ends_nothing(model: Path) -> None:
    plain = loaded(model)
    with serving(Broken(plain.model, plain.encoder, plain.path), log=Full()) as client:
        assert client.completion("Ada " * 20).status == 500
        assert client.completion("Ada").status == 200
        assert "expunge_log_lines_lost_total 3" in client("GET", "/metrics").body.decode()
        assert client.service.engine.alive


def test_a_mistake_before_the_answer_ends_one_request_alone(subject: Any, monkeypatch: Any) -> None:
    log = io.StringIO()
    with serving(subject, log=log) as client:
        with monkeypatch.context() as patch:
            patch.setattr(client.service.engine, "_prepare", lambda job: 1 / 0)
            assert client.completion("Ada").status == 500
        with monkeypatch.context() as patch:
            patch.setattr(client.service.rates, "take", lambda owner: 1 / 0)
            assert client.completion("Ada").status == 500
        assert client.completion("Ada").status == 200
    errors = [line for line in map(json.loads, log.getvalue().splitlines()) if line["event"] == "error"]
    assert [line["where"].partition(":")[0] for line in errors] == ["test_engine.py"] * 2


class Filtered(CausalLM):
    """A guard that looks at the whole answer before anyone sees it."""

    def generate(self, prompts: Any, most: int, batch_size: int = 64, **options: Any) -> Any:
        said = CausalLM.generate(self, prompts, most, batch_size, temperature=options.get("temperature"),
                                 seed=options.get("seed", 0))
        return [("I will not say." if text else "", True) for text, _ in said]


def test_a_tokenizer_that_fails_ends_one_request_alone(model: Path, monkeypatch: Any) -> None:
    subject = loaded(model)
    with serving(subject) as client:
        with monkeypatch.context() as patch:
            patch.setattr(subject.encoder, "encode", lambda example: 1 / 0)
            assert client.completion("Ada").status == 500
        assert client.completion("Ada", temperature=1e-320).status == 200
        assert client("GET", "/healthz").status == 200


def test_what_a_guard_holds_back_is_not_streamed(model: Path) -> None:
    """Tokens that a guard has not seen yet never leave the server."""
    plain = loaded(model)
    subject = Filtered(plain.model, plain.encoder, plain.path)
    with serving(subject, guard="filter") as client:
        assert not client.service.engine.pieces_show
        events = client.completion(stream=True, temperature=1, seed=1, max_tokens=30).events
        assert [e["choices"][0]["text"] for e in events[:-1]] == ["I will not say.", ""]
        whole = client.completion(temperature=1, seed=1, max_tokens=30, stop="not")
        assert whole.json["choices"][0]["text"] == "I will "
        assert whole.json["usage"]["completion_tokens"] > 0
