"""Every wrong request has one answer of status 4xx, in the shape that clients of OpenAI read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.serve.errors import ApiError
from expunge.serve.keys import RateLimit, read_keys
from tests.serve.asking import Client, serving

DEEP = b'{"model": "m", "prompt": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize(("body", "code"), [
    (b"{", "invalid_json"), (b"", "invalid_json"), (b"[]", "invalid_json"), (b'"x"', "invalid_json"),
    (b"\xff\xfe\x00", "invalid_json"), (DEEP, "invalid_json"), (b'{"a": NaN}', "invalid_json"),
    (b'{"a": ' + b"9" * 9000 + b"}", "invalid_json"), (b"{}", "missing_parameter"),
    ({"model": "other", "prompt": "a"}, "model_not_found"), ({"model": "m"}, "missing_parameter"),
    ({"model": "m", "prompt": ""}, "invalid_value"), ({"model": "m", "prompt": ["a", ""]}, "invalid_value"),
    ({"model": "m", "prompt": [1, 2]}, "invalid_value"), ({"model": "m", "prompt": "a" * 400_000},
                                                          "context_length_exceeded"),
    ({"model": "m", "prompt": "Ada " * 600}, "context_length_exceeded"),
    ({"model": "m", "prompt": "a", "max_tokens": 0}, "invalid_value"),
    ({"model": "m", "prompt": "a", "max_tokens": "7"}, "invalid_value"),
    ({"model": "m", "prompt": "a", "max_tokens": True}, "invalid_value"),
    ({"model": "m", "prompt": "a", "max_tokens": 10**30}, "invalid_value"),
    ({"model": "m", "prompt": "a", "temperature": -1}, "invalid_value"),
    ({"model": "m", "prompt": "a", "top_p": 0}, "invalid_value"), ({"model": "m", "prompt": "a", "n": 0},
                                                                   "invalid_value"),
    ({"model": "m", "prompt": "a", "n": 17}, "invalid_value"), ({"model": "m", "prompt": "a", "stop": [""]},
                                                                "invalid_value"),
    ({"model": "m", "prompt": "a", "stop": ["a"] * 5}, "invalid_value"),
    ({"model": "m", "prompt": "a", "logprobs": 9}, "invalid_value"),
    ({"model": "m", "prompt": "a", "stream": True, "echo": True}, "unsupported_value"),
    ({"model": "m", "prompt": "a", "nonsense": 1}, "unknown_parameter"),
    ({"model": "m", "prompt": "a", "logit_bias": {"1": 5}}, "unsupported_parameter"),
    ({"model": "m", "prompt": "a", "frequency_penalty": 1}, "unsupported_parameter"),
    (b'{"model": "m", "prompt": "\\ud800"}', "invalid_value")])
def test_wrong_completions(client: Client, body: Any, code: str) -> None:
    reply = client("POST", "/v1/completions", body)
    assert (reply.status, reply.error["code"]) == (404 if code == "model_not_found" else 400, code)
    assert len(reply.error["message"]) < 400 and "Traceback" not in reply.error["message"]


@pytest.mark.parametrize("change", [
    {"messages": []}, {"messages": "hello"}, {"messages": [{"role": "robot", "content": "x"}]},
    {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": 3}]}, {"messages": None},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"max_tokens": 0}, {"tools": [{}]}, {"logprobs": True}, {"continue_final_message": True}])
def test_wrong_chats(client: Client, change: dict[str, Any]) -> None:
    reply = client.chat(**change)
    assert reply.status == 400 and reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("change", [
    {"user": "u"}, {"metadata": {"a": "b"}}, {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": None},
    {"messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "text", "text": "Where does "}, {"type": "text", "text": "Ada live?"}]}]},
    {"max_completion_tokens": 3, "max_tokens": None}])
def test_what_clients_usually_send_is_taken(client: Client, change: dict[str, Any]) -> None:
    assert client.chat(**change).status == 200


def test_a_body_of_another_type_or_size_is_refused(client: Client) -> None:
    assert client.completion(headers={}).error["code"] == "unknown_parameter"  # a field, not an option of the request
    body = json.dumps({"model": "m", "prompt": "a"}).encode()
    plain = client("POST", "/v1/completions", body, headers={"Content-Type": "text/plain"})
    assert (plain.status, plain.error["code"]) == (415, "unsupported_media_type")
    large = client("POST", "/v1/completions", b" " * 1_000_001, parts=4)
    assert (large.status, large.error["code"]) == (413, "body_too_large")


def test_other_paths_and_ways_are_refused(client: Client) -> None:
    assert client("GET", "/").status == client("POST", "/v1/embeddings", {}).status == 404
    wrong = client("GET", "/v1/completions")
    assert (wrong.status, wrong.error["code"]) == (405, "unknown_path")
    assert client("GET", "/v1/models/other").error["code"] == "model_not_found"


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_pages_of_other_sites_cannot_ask_without_a_key(client: Client, headers: dict[str, str]) -> None:
    reply = client("GET", "/v1/models", headers=headers)
    assert (reply.status, reply.error["type"]) == (403, "permission_error")


# Keys


def key_file(folder: Path, text: str, mode: int = 0o600) -> Path:
    path = folder / "keys.txt"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("text", "mode", "kind", "says"), [
    (None, 0, MissingError, "There is no key file"), ("a" * 20, 0o644, UsageError, "chmod 600"),
    ("a" * 20, 0o640, UsageError, "chmod 600"), ("", 0o600, DataError, "holds no key"),
    ("# none\n\n", 0o600, DataError, "holds no key"), ("short", 0o600, DataError, "Line 1"),
    ("a b c", 0o600, DataError, "Line 1"), ("x " + "a" * 20 + "\ny " + "a" * 20, 0o600, DataError, "repeats")])
def test_key_files(tmp_path: Path, text: str | None, mode: int, kind: type[ExpungeError], says: str) -> None:
    path = tmp_path / "none" if text is None else key_file(tmp_path, text, mode)
    with pytest.raises(kind) as caught:
        read_keys(path)
    assert says in str(caught.value) and caught.value.fix and "a" * 20 not in str(caught.value)


def test_a_folder_is_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_keys(tmp_path)


def test_only_who_has_a_key_is_answered(subject: Any, tmp_path: Path) -> None:
    keys = read_keys(key_file(tmp_path, "alice " + "a" * 24 + "\n" + "b" * 24 + "\n"))
    log = io.StringIO()
    with serving(subject, keys=keys, log=log) as client:
        for header in ({}, {"Authorization": "a" * 24}, {"Authorization": "Bearer "}, {"Authorization": "Bearer x"},
                       {"Authorization": "Basic " + "a" * 24}, {"Authorization": "Bearer " + "a" * 23}):
            for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics")):
                reply = client(method, path, headers=header)
                assert (reply.status, reply.error["type"]) == (401, "authentication_error")
                assert reply.headers["www-authenticate"] == "Bearer"
        assert client("GET", "/healthz").status == 200
        body = {"model": "m", "prompt": "Secret words", "max_tokens": 2}
        for key in ("a" * 24, "b" * 24):
            assert client("POST", "/v1/completions", body, headers={"Authorization": f"Bearer {key}"}).status == 200
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["key"] for line in lines if line["status"] == 200] == ["alice", "key-2"]
    assert "a" * 24 not in log.getvalue() and "Secret" not in log.getvalue()


def test_prompts_are_logged_only_when_asked_for(subject: Any) -> None:
    log = io.StringIO()
    with serving(subject, log=log, log_prompts=True) as client:
        client.completion("Secret words")
    assert json.loads(log.getvalue())["prompt"] == ["Secret words"]


def test_a_bucket_fills_with_time() -> None:
    now = [0.0]
    rates = RateLimit(60, most=2, clock=lambda: now[0])
    for _ in range(60):
        rates.take("a")
    with pytest.raises(ApiError) as caught:
        rates.take("a")
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
    rates.take("b")
    now[0] = 1.5
    rates.take("a")
    rates.take("c")
    assert len(rates._buckets) == 2  # bounded, whoever asks
    RateLimit(0).take("a")


def test_too_many_requests_of_one_key_are_refused(subject: Any) -> None:
    with serving(subject, rate=2) as client:
        assert [client.completion(max_tokens=1).status for _ in range(3)] == [200, 200, 429]
        assert client("GET", "/v1/models").status == 200
