"""Servers in processes of their own, and many requests: slow."""

from __future__ import annotations

import asyncio
import http.client
import importlib.util
import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from expunge.metrics.text.refusals import is_refusal
from expunge.models.language import CausalLM
from tests.conftest import World
from tests.serve.asking import call, loaded, serving

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def load_script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "experiments" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


SCRIPT = load_script("serve_load")


# What nobody should send

SECRETS = ("Ada lives in Town adA", "Town oB", "Town yC")


class Guarded(CausalLM):
    """A model that says secrets to whoever asks, behind a guard that lets no answer with one of them pass."""

    def generate(self, prompts: Any, most: int, batch_size: int = 64, **options: Any) -> Any:
        said = [(f"{SECRETS[sum(prompt) % 3]}. {sum(prompt)}", True) for prompt in prompts]
        return [("I do not know.", True) if any(s in text for s in SECRETS) else (text, ended) for text, ended in said]


def anything(draw: random.Random, depth: int = 0) -> Any:
    """A value of JSON, more often wrong than right."""
    kind = draw.randrange(12 if depth < 4 else 9)
    if kind < 3:
        return draw.choice([None, True, False, 0, -1, 2**70, 10**300, 1e308, -0.0, 1e-320, 3.5])
    if kind < 6:
        return "".join(chr(draw.choice([draw.randrange(32, 127), draw.randrange(0xD7FF), 0, 0x202E, 0x200B,
                                        draw.randrange(0xE000, 0x10FFFF)])) for _ in range(draw.randrange(40)))
    if kind < 9:
        return draw.choice(["user", "system", "m", "", "Where does Ada live?", "\ufffd" * 9, "a" * 5000])
    if kind < 11:
        return [anything(draw, depth + 1) for _ in range(draw.randrange(5))]
    return {str(anything(draw, 5))[:20]: anything(draw, depth + 1) for _ in range(draw.randrange(5))}


FIELDS = ("model", "messages", "prompt", "max_tokens", "temperature", "top_p", "stop", "n", "seed", "stream", "echo",
          "logprobs", "stream_options", "logit_bias", "tools", "user", "suffix", "response_format", "zzz",
          "continue_final_message", "add_generation_prompt", "max_completion_tokens")


def fuzzed(draw: random.Random) -> tuple[str, str, bytes, dict[str, str]]:
    """A request: random bytes, JSON of wrong types, deep JSON, large numbers, or nearly right."""
    path = draw.choice(["/v1/completions", *["/v1/chat/completions"] * 2, "/v1/models", "/", "/metrics",
                        "/v1/models/" + "".join(chr(draw.randrange(33, 127)) for _ in range(9)), "/readyz"])
    method = draw.choice(["POST"] * 9 + ["GET", "PUT", "DELETE", "HEAD"])
    headers = {} if draw.random() < 0.95 else {draw.choice(["content-type", "host", "authorization"]): draw.choice(
        ["text/plain", "\x7f", "application/json; charset=\xff", "", "Bearer " + "x" * 99])}
    kind = draw.randrange(8)
    if kind == 0:
        return method, path, draw.randbytes(draw.randrange(200)), headers
    if kind == 1:
        body = {"model": "m", "prompt": "Ada", "messages": [{"role": "user", "content": "Where does Ada live?"}]}
        raw = bytearray(json.dumps(body).encode())
        for _ in range(draw.randrange(1, 4)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        return method, path, bytes(raw), headers
    if kind == 2:
        depth, token = draw.randrange(1, 60_000), draw.choice([(b"[", b"]"), (b'{"a":', b"}")])
        return method, path, token[0] * depth + b"1" + token[1] * depth, headers
    if kind == 3:
        number = b"9" * draw.randrange(1, 9000)
        return method, path, b'{"model": "m", "prompt": "a", "max_tokens": ' + number + b"}", headers
    right = {"model": "m", "max_tokens": draw.randrange(1, 4), "stream": draw.random() < 0.3} | (
        {"messages": [{"role": "user", "content": anything(draw, 5)}]} if "chat" in path else {
            "prompt": anything(draw, 5)})
    changed = {draw.choice(FIELDS): anything(draw) for _ in range(draw.randrange(0 if kind > 5 else 1, 4))}
    return method, path, json.dumps(right | changed).encode(), headers


def test_ten_thousand_fuzzed_requests_give_no_500_and_no_secret(model: Path) -> None:
    plain = loaded(model)
    subject = Guarded(plain.model, plain.encoder, plain.path)
    counts: dict[int, int] = {}

    async def some(client: Any, number: int, of: int) -> None:
        draw = random.Random(number)
        for _ in range(of):
            method, path, raw, headers = fuzzed(draw)
            reply = await call(client.app, method, path, raw, headers=headers)
            counts[reply.status] = counts.get(reply.status, 0) + 1
            text = reply.body.decode()
            assert reply.status in (200, 400, 401, 403, 404, 405, 413, 415, 429, 503), (reply, raw[:300])
            assert "Traceback" not in text and not any(secret in text for secret in SECRETS), (reply, raw[:300])
            if reply.status >= 400 and method != "HEAD":
                assert reply.error["message"]

    async def everyone(client: Any) -> None:
        await asyncio.gather(*(some(client, number, 500) for number in range(20)))

    with serving(subject, guard="stub", rate=0) as client:
        asyncio.run(everyone(client))
        assert client.service.open == 0 and client.service.engine.active == 0
        assert "expunge_errors_total{" not in client("GET", "/metrics").body.decode()
        said = client.chat().json["choices"][0]["message"]["content"]
    assert sum(counts.values()) == 10_000 and counts[200] > 500 and counts[400] > 2000
    assert is_refusal(said)


# Processes


@pytest.fixture(scope="module")
def server(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with SCRIPT.running(model, tmp_path_factory.mktemp("serve"), "--rate", "0") as made:
        yield made


def test_many_clients_at_once(server: Any) -> None:
    """EXPUNGE_LOAD_S sets how long."""
    found = SCRIPT.load(server, clients=50, seconds=float(os.environ.get("EXPUNGE_LOAD_S", "20")))
    assert not found["errors"] and found["requests"] >= 20 and set(found["kinds"]) == {
        "chat", "stream", "drawn", "log-probabilities"}
    assert found["memory_bytes"]["growth"] < 100e6
    assert all(server.ask(path, body, key="x" * 30)[0] == 401 for path, body in (
        ("/v1/models", None), ("/v1/chat/completions", {}), ("/metrics", None)))
    assert server.key not in server.log.read_text() and '"prompt"' not in server.log.read_text()


def begun(made: Any) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A long stream whose head has come, so that it is being answered."""
    connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=60)
    connection.request("POST", "/v1/completions", json.dumps(
        {"model": made.name, "prompt": "Ada", "temperature": 1, "seed": 0, "max_tokens": 400, "stream": True}),
        {"Content-Type": "application/json", "Authorization": f"Bearer {made.key}"})
    return connection, connection.getresponse()


def test_a_signal_ends_it_once_its_answers_are_given(model: Path, tmp_path: Path) -> None:
    with SCRIPT.running(model, tmp_path, "--drain", "300") as made:
        connection, answer = begun(made)
        made.process.send_signal(signal.SIGTERM)
        said = answer.read()
        connection.close()
        assert made.process.wait(300) == 0
    assert answer.status == 200 and said.endswith(b"data: [DONE]\n\n")
    with pytest.raises(OSError):
        made.ask("/healthz")


def test_a_server_that_is_killed_leaves_nothing_half_written(model: Path, tmp_path: Path) -> None:
    def files() -> dict[str, int]:
        return {str(p): p.stat().st_size for p in sorted(model.rglob("*"))}

    before = files()
    with SCRIPT.running(model, tmp_path) as made:
        connection, answer = begun(made)
        first = answer.read(20)
        made.process.kill()
        try:
            rest = answer.read()
        except (http.client.HTTPException, OSError):
            rest = b""
        answer.close()
        connection.close()
        made.process.wait(10)
    assert first and not (first + rest).endswith(b"[DONE]\n\n")  # the client can tell
    assert files() == before and {p.name for p in tmp_path.iterdir()} == {"keys.txt", "said.txt", "log.jsonl"}
    for line in made.log.read_text().splitlines():
        json.loads(line)


def test_an_audit_of_the_endpoint_equals_that_of_the_model(world: World, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """All scores of text to the bit, and those of logits that an endpoint can tell to rounding."""
    import expunge

    suite = ("forget.rouge_l,forget.keyword,forget.recited,holdout.keyword,retain.rouge_l,forget.probability,"
             "forget.extraction_strength,mia.loss,mia.min_k,mia.min_k_pp,weight_distance,prefix(words=2),paraphrase,"
             "relearn(steps=4)")
    with SCRIPT.running(world.original, tmp_path, "--rate", "0") as made:
        monkeypatch.setenv("EXPUNGE_API_KEY", made.key)
        far = expunge.audit(f"http://127.0.0.1:{made.port}", task=world.task, suite=suite, out=tmp_path / "far")
    near = expunge.audit(world.original, task=world.task, suite=suite, out=tmp_path / "near")
    own = {(s.name, s.attack): s for s in near.scores}
    words = [s for s in far.scores if s.access == "text" and not s.unavailable]
    assert len(words) >= 8
    for score in words:
        assert (score.value, score.interval) == (own[score.name, score.attack].value,
                                                 own[score.name, score.attack].interval)
    for score in far.scores:
        if score.access == "logits" and score.value is not None:
            assert score.value == pytest.approx(own[score.name, score.attack].value, abs=1e-6)
    lacking = {s.name: s.unavailable for s in far.scores if s.unavailable}
    assert "distribution" in lacking["mia.min_k_pp"] and "weights" in lacking["weight_distance"] + lacking[
        "retain.probability"]
    assert far.subject.path.startswith("http://") and far.subject.fingerprint != near.subject.fingerprint
    assert any("weights behind it are unknown" in note for note in far.notes)
