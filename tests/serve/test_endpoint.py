"""An endpoint as a subject: what is asked of it, how long it is waited for, and what cannot be had."""

from __future__ import annotations

import io
import json
import urllib.error
from collections.abc import Callable, Mapping
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from expunge.audit.cache import model_key
from expunge.errors import DataError, ExpungeError, MissingError, UsageError
from expunge.models import endpoint_client
from expunge.models.endpoint import Endpoint
from expunge.models.endpoint_client import EndpointClient, is_endpoint, read_key, split_address
from expunge.models.endpoint_rows import connect
from expunge.records.task import Example, Opened

Route = Callable[[dict[str, Any]], Any]
BASE = "http://host:1/v1"
FORM = {"row": "Q: {prompt}\nA: {answer}</s>", "end": "</s>", "logprobs": True, "vocabulary": 9}


class Fake:
    """An endpoint without a network: path -> what it answers to a body, or the status it refuses it with."""

    def __init__(self, routes: Mapping[str, Route]) -> None:
        self.routes, self.asked, self.keys = dict(routes), list[tuple[str, Any]](), list[str | None]()

    def __call__(self, request: Any, timeout: float) -> Any:
        path = request.full_url.removeprefix(BASE)
        body = json.loads(request.data) if request.data else {}
        self.asked.append((path, body))
        self.keys.append(request.get_header("Authorization"))
        found = self.routes[path](body)
        if isinstance(found, Exception):
            raise found
        return io.BytesIO(found if isinstance(found, bytes) else json.dumps(found).encode())


def refusal(status: int, said: str = "no", **headers: str) -> urllib.error.HTTPError:
    lines = Message()
    for name, value in headers.items():
        lines[name.replace("_", "-")] = value
    return urllib.error.HTTPError(BASE, status, "reason", lines, io.BytesIO(json.dumps({"error": {
        "message": said}}).encode()))


def models(*names: str, **about: Any) -> Route:
    return lambda body: {"data": [{"id": name, **({"expunge": about} if about else {})} for name in names]}


def completions(body: dict[str, Any]) -> Any:
    """Tokens are characters; each has the log-probability -1, and `x` is never the likeliest."""
    text = body["prompt"]
    if not body.get("echo"):
        return {"choices": [{"text": f" {text[-3:]}!", "finish_reason": "stop"}]}
    return {"choices": [{"text": text, "logprobs": {
        "tokens": list(text), "token_logprobs": [None, *[-1.0] * (len(text) - 1)],
        "top_logprobs": [None, *[{c: -1.0 if c != "x" else -0.5} for c in text[1:]]],
        "text_offset": list(range(len(text)))}}]}


def chat(body: dict[str, Any]) -> Any:
    return {"choices": [{"message": {"content": f"You said {body['messages'][-1]['content']}"},
                         "finish_reason": "length"}]}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    made = Fake({"/models": models("m", **FORM), "/completions": completions, "/chat/completions": chat})
    monkeypatch.setattr(endpoint_client.urllib.request, "urlopen", made)
    monkeypatch.setattr(endpoint_client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(EndpointClient.__init__, "__defaults__", (None, lambda seconds: None))
    return made


QA = Example(id="1", prompt="Who?", answer="Ada x.")


def test_addresses() -> None:
    assert is_endpoint("http://a") and is_endpoint("HTTPS://a/v1") and not is_endpoint(Path("http:/a"))
    assert not is_endpoint("runs/http")
    assert split_address("http://a:8/v1/#m/n") == ("http://a:8/v1", "m/n")
    assert split_address("http://a:8") == ("http://a:8/v1", "")
    for wrong in ("http://", "http://a?x=1"):
        with pytest.raises(UsageError, match="not the address"):
            split_address(wrong)


def test_what_is_offered_follows_from_what_is_told(fake: Fake) -> None:
    assert connect(BASE).offered == {"generate", "prompt", "logp", "sequence"}
    fake.routes["/models"] = models("m")
    assert connect(BASE).offered == {"generate", "prompt"}  # nobody says how a question is put
    assert connect(BASE, template="Q {prompt} A").offered > {"logp"}
    fake.routes["/completions"] = lambda body: refusal(400)
    assert connect(BASE, template="Q {prompt} A").offered == {"generate", "prompt"}
    fake.routes["/completions"] = lambda body: refusal(400) if body["max_tokens"] == 0 else completions(body)
    assert connect(BASE, template="Q {prompt} A").scores == "1"


def test_rows_are_asked_as_conversations(fake: Fake) -> None:
    subject = Endpoint(connect(BASE))
    encoder = subject.encoder
    opened = Opened(**QA.model_dump(), opening="Sure:")
    turns = Example(id="2", prompt="b", answer="c", kind="messages", messages=(("system", "a"), ("user", "b")))
    said = subject.generate([encoder.prompt(QA), encoder.prompt(opened), encoder.prompt(turns)], 7)
    assert said == [("You said Who?", False), ("You said Sure:", False), ("You said b", False)]
    bodies = [body for path, body in fake.asked if path == "/chat/completions"]
    by_last = {body["messages"][-1]["content"]: body for body in bodies}
    assert all(body["temperature"] == 0 and body["max_tokens"] == 7 for body in bodies)
    assert by_last["Sure:"]["continue_final_message"] and "continue_final_message" not in by_last["b"]
    assert [m["role"] for m in by_last["b"]["messages"]] == ["system", "user"]


def test_texts_are_continued(fake: Fake) -> None:
    subject = Endpoint(connect(BASE, template="Q {prompt} A"))
    text = Example(id="3", prompt="", answer="Once upon", kind="text")
    row = subject.encoder.encode(text, answer="Once")
    more = Example(id="4", prompt="To be ", answer="or not", kind="completion")
    prompts = [subject.encoder.prompt(QA), row.ids[: row.prompt + row.answer], subject.encoder.prompt(more)]
    assert subject.generate(prompts, 5) == [("? A!", True), ("nce!", True), (" be!".strip(), True)]


def test_log_probs_are_of_the_answer_and_its_end_alone(fake: Fake) -> None:
    subject = Endpoint(connect(BASE))
    running = Example(id="5", prompt="", answer="A text", kind="text")
    rows = [subject.encoder.encode(QA), subject.encoder.encode(running)]
    (_, first), (_, text) = subject.answers_in_parts(rows, [0, 1])
    assert len(first.logp) == len(" Ada x.</s>") and rows[0].end == 1
    assert first.hit == [c != "x" for c in " Ada x.</s>"]
    assert len(text.logp) == len("A text</s>") - 1  # nothing predicts the first


def test_draws_carry_temperature_and_seed(fake: Fake) -> None:
    subject = Endpoint(connect(BASE)).sampled(0.7, 0.9, 0, 2**40)
    subject.generate([subject.encoder.prompt(QA)], 5)
    body = fake.asked[-1][1]
    assert (body["temperature"], body["top_p"], body["seed"]) == (0.7, 0.9, 2**40 % 2**31)
    with pytest.raises(UsageError, match="top_k"):
        subject.sampled(1, 1, 5, 0)


def test_there_are_no_weights(fake: Fake) -> None:
    subject = Endpoint(connect(BASE))
    for act in (subject.clone, lambda: subject.decoded(None), lambda: subject.save(Path("x"))):
        with pytest.raises(UsageError):
            act()
    assert subject.intact and subject.bare and subject.outcomes == 9


def test_answers_are_filed_under_address_name_and_day(fake: Fake) -> None:
    from dataclasses import replace

    config = connect(BASE)
    key = model_key(Endpoint(config))
    assert key == model_key(Endpoint(connect(BASE)))
    others = [replace(config, day="2001-01-01"), replace(config, model="n"), replace(config, told={"x": 1}),
              replace(config, template="{prompt}"), replace(config, client=EndpointClient("http://other/v1"))]
    assert len({key, *(model_key(Endpoint(other)) for other in others)}) == 6


def test_a_busy_endpoint_is_asked_again(fake: Fake) -> None:
    waited: list[float] = []
    answers = [refusal(429, Retry_After="7"), refusal(503), urllib.error.URLError("reset"), {"data": []}]
    fake.routes["/models"] = lambda body: answers.pop(0)
    assert EndpointClient(BASE, None, waited.append).ask("/models") == {"data": []}
    assert waited == [7.0, 1.0, 1.0]


@pytest.mark.parametrize(("answer", "kind", "says"), [
    (lambda body: urllib.error.URLError("Connection refused"), MissingError, "does not answer"),
    (lambda body: refusal(503, "later"), MissingError, "later"), (lambda body: refusal(401, "bad"), UsageError, "key"),
    (lambda body: refusal(404), UsageError, "no endpoint"), (lambda body: b"<html>", DataError, "else than JSON"),
    (models(), UsageError, "has 0 models"), (models("a", "b"), UsageError, "Known: a, b"),
    (lambda body: {"data": None}, UsageError, "has 0 models")])
def test_what_is_said_where_no_model_can_be_had(fake: Fake, answer: Route, kind: type[ExpungeError], says: str) -> None:
    fake.routes["/models"] = answer
    with pytest.raises(kind) as caught:
        connect(BASE)
    assert says in str(caught.value) and caught.value.fix


def test_one_of_several_is_named_behind_the_address(fake: Fake) -> None:
    fake.routes["/models"] = models("alpha", "beta")
    assert connect(BASE + "#beta").model == "beta"
    with pytest.raises(UsageError, match="Did you mean alpha"):
        connect(BASE + "#alpa")


def test_the_key_is_sent_and_not_shown(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_API_KEY", "from-the-environment")
    assert "environment" not in repr(connect(BASE))
    assert fake.keys[-1] == "Bearer from-the-environment"
    file = tmp_path / "key"
    file.write_text("# mine\nalice from-the-file\n", encoding="utf-8")
    connect(BASE, key_file=file)
    assert fake.keys[-1] == "Bearer from-the-file"
    with pytest.raises(MissingError):
        read_key(tmp_path / "none")
    file.write_text("", encoding="utf-8")
    with pytest.raises(DataError):
        read_key(file)


@pytest.mark.parametrize("answer", [{}, {"choices": []}, {"choices": [3]}])
def test_an_answer_without_a_choice_is_told(fake: Fake, answer: Any) -> None:
    subject = Endpoint(connect(BASE))
    fake.routes["/chat/completions"] = lambda body: answer
    with pytest.raises(DataError, match="without a choice"):
        subject.generate([subject.encoder.prompt(QA)], 5)


@pytest.mark.slow
def test_an_audit_of_words_alone_says_what_it_lacks(fake: Fake, rows: Any, tmp_path: Path, cli: Any) -> None:
    fake.routes["/models"] = models("m")
    made = cli("audit", BASE, *rows.words, "--suite", "forget.rouge_l,forget.probability,prefix(words=1)", "--out",
               tmp_path / "audit", "--json").json
    scores = {(s["name"], s["attack"]): s for s in made["scores"]}
    assert scores["forget.rouge_l", None]["value"] is not None
    assert "needs log-probabilities" in scores["forget.probability", None]["unavailable"]
    assert made["subject"]["path"] == f"{BASE}#m" and any("weights behind it are unknown" in n for n in made["notes"])


def test_other_commands_need_the_model_itself(cli: Any, rows: Any, tmp_path: Path) -> None:
    cli.refused("forget", BASE, *rows.words, "--method", "ga", "--out", tmp_path / "o",
                says=["is an endpoint", "expunge audit"])
