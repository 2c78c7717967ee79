"""What is served is what the model says: token by token, streamed or whole, alone or beside others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch

from expunge.records.task import Example
from expunge.serve.engine import Job
from expunge.serve.row_format import ids_of, row_format
from expunge.serve.service import Service
from expunge.serve.texts import Pieces
from tests.serve.asking import Client, call, serving

ASKED = ("Where does Ada live?", "Bo", "Where does Town live? Ada Ada Ada", "I do not know. I do not know.")
MOST = 9


def prompt_of(subject: Any, text: str) -> tuple[int, ...]:
    found: tuple[int, ...] = subject.encoder.prompt(Example(id="", prompt=text, answer=""))
    return found


def own_tokens(subject: Any, prompt: tuple[int, ...], most: int = MOST) -> list[int]:
    """What greedy decoding says, by full forward passes without a cache."""
    said: list[int] = []
    with subject.evaluating():
        for _ in range(most):
            logits = subject.model(input_ids=torch.tensor([[*prompt, *said]])).logits
            said.append(int(logits[0, -1].argmax()))
            if said[-1] == subject.encoder.eos_id:
                break
    return said


def test_greedy_answers_are_those_of_our_own_generation(subject: Any, client: Client) -> None:
    own = subject.generate([prompt_of(subject, text) for text in ASKED], MOST)
    bodies = [{"model": "m", "messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": MOST}
              for text in ASKED]

    async def together() -> list[Any]:
        return await asyncio.gather(*(call(client.app, "POST", "/v1/chat/completions", json.dumps(body).encode())
                                      for body in bodies))

    replies = asyncio.run(together())
    assert [(r.json["choices"][0]["message"]["content"].strip(), r.json["choices"][0]["finish_reason"] == "stop")
            for r in replies] == own
    assert [r.json["usage"]["prompt_tokens"] for r in replies] == [len(prompt_of(subject, text)) for text in ASKED]


def test_tokens_equal_a_slow_twin_also_in_a_batch(subject: Any, client: Client) -> None:
    asked = [Job(client.service_asked(text, MOST), None) for text in ASKED]
    with serving(subject, started=False) as other:
        engine = other.service.engine
        for job in asked:
            engine.put(job)
        chosen = engine._pick()
        assert chosen == asked  # one batch
        engine._answer(chosen)
    for text, job in zip(ASKED, asked, strict=True):
        said = own_tokens(subject, prompt_of(subject, text))
        assert job.choices[0].tokens == [t for t in said if t != subject.encoder.eos_id]


@pytest.mark.parametrize("way", [{"temperature": 0}, {"temperature": 1.3, "seed": 5}, {"temperature": 1.3, "n": 3,
                                                                                       "seed": 6, "top_p": 0.9}])
@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_pieces_of_a_stream_are_the_whole_answer(client: Client, kind: str, way: dict[str, Any]) -> None:
    ask = getattr(client, kind)
    whole = ask(max_tokens=14, **way).json
    events = ask(max_tokens=14, stream=True, stream_options={"include_usage": True}, **way).events
    assert events[-1] == "[DONE]" and events[-2]["choices"] == [] and events[-2]["usage"] == whole["usage"]
    texts, ends = dict.fromkeys(range(way.get("n", 1)), ""), {}
    for event in events[:-2]:
        (choice,) = event["choices"]
        said = choice["delta"].get("content", "") if kind == "chat" else choice["text"]
        texts[choice["index"]] += said
        assert choice["index"] not in ends
        if choice["finish_reason"]:
            ends[choice["index"]] = choice["finish_reason"]
    assert list(texts.values()) == [c["message"]["content"] if kind == "chat" else c["text"] for c in whole["choices"]]
    assert list(ends.values()) == [c["finish_reason"] for c in whole["choices"]]


def test_a_seed_repeats_an_answer_and_another_does_not(client: Client) -> None:
    first, again, other = (client.completion(temperature=1, seed=s, max_tokens=20).json["choices"] for s in (1, 1, 2))
    assert first == again != other


def test_a_stop_string_ends_the_answer_before_itself(client: Client) -> None:
    full = client.completion(temperature=1, seed=1, max_tokens=20).json["choices"][0]["text"]
    stop = full[4:6]
    cut = client.completion(temperature=1, seed=1, max_tokens=20, stop=[stop, "never said"]).json["choices"][0]
    assert (cut["text"], cut["finish_reason"]) == (full[: full.index(stop)], "stop")
    events = client.completion(temperature=1, seed=1, max_tokens=20, stop=stop, stream=True).events
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == cut["text"]


def test_pieces_hold_back_half_characters_and_the_beginning_of_a_stop() -> None:
    letters = {1: "a", 2: "b", 3: "c", 4: "\ufffd"}
    pieces = Pieces(lambda tokens: "".join(letters[t] for t in tokens), ("bcb",), strip=False)
    assert [pieces.feed(t) for t in ([1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 1])] == ["a", "", "", "", "bca"]
    assert pieces.feed([1, 2, 3, 1, 2, 3, 2]) == "" and pieces.stopped and pieces.sent == "abca"


def test_echoed_log_probs_are_those_of_a_forward_pass(subject: Any, client: Client) -> None:
    text = "Where does Ada live? Ada lives in Town adA."
    told = client.completion(text, echo=True, logprobs=1, max_tokens=0).json
    found, ids = told["choices"][0]["logprobs"], ids_of(subject.encoder, text)
    with subject.evaluating():
        logp = subject.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    own = [float(logp[t - 1, ids[t]]) for t in range(1, len(ids))]
    assert found["token_logprobs"][0] is None
    assert found["token_logprobs"][1:] == pytest.approx(own, abs=1e-5)
    assert [max(top.values()) for top in found["top_logprobs"][1:]] == pytest.approx(
        logp[:-1].max(-1).values.tolist(), abs=1e-5)
    assert "".join(found["tokens"]) == text == told["choices"][0]["text"]
    assert found["text_offset"] == [text.index("".join(found["tokens"][k:])) for k in range(len(ids))]


def test_log_probs_of_an_answer_follow_its_prompt(subject: Any, client: Client) -> None:
    told = client.completion(logprobs=2, max_tokens=4).json["choices"][0]
    echoed = client.completion(logprobs=2, max_tokens=4, echo=True).json["choices"][0]
    assert len(told["logprobs"]["tokens"]) == 4 and all(len(top) <= 2 for top in told["logprobs"]["top_logprobs"])
    assert echoed["logprobs"]["token_logprobs"][-4:] == told["logprobs"]["token_logprobs"]
    assert told["logprobs"]["token_logprobs"] == [max(top.values()) for top in told["logprobs"]["top_logprobs"]]


def test_the_told_form_of_a_row_has_the_tokens_of_the_row(subject: Any) -> None:
    form = row_format(subject.encoder)
    row = subject.encoder.encode(Example(id="", prompt="Where does Bo live?", answer="In Town oB."))
    assert form is not None and ids_of(subject.encoder, form.replace("{prompt}", "Where does Bo live?").replace(
        "{answer}", "In Town oB.")) == row.ids


def test_a_short_prompt_is_not_cut_by_a_long_one_beside_it(subject: Any, client: Client) -> None:
    """Rows of a batch share the padded width, and the context would end for all of them."""
    context = subject.context
    with serving(subject, started=False, max_tokens=context) as other:
        long = Job(other.service_asked("Ada " * (context // 2), 4), None)
        short = Job(other.service_asked("Ada", context - 40), None)
        for job in (long, short):
            other.service.engine.put(job)
        assert other.service.engine._pick() == [long] and other.service.engine.waiting == 1


def test_prompts_are_not_remembered(subject: Any, client: Client) -> None:
    before = len(subject.encoder._rows)
    client.completion("A prompt that nobody asked before")
    client.chat("And another one")
    assert len(subject.encoder._rows) == before


def test_a_reply_can_be_begun(subject: Any, client: Client) -> None:
    """As vLLM has it; the attack `prefix` asks so."""
    from expunge.records.task import Opened

    body = {"model": "m", "temperature": 0, "max_tokens": 5, "continue_final_message": True,
            "add_generation_prompt": False,
            "messages": [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Ada lives"}]}
    prompt = subject.encoder.prompt(Opened(id="", prompt="Where?", answer="x", opening="Ada lives"))
    said = client("POST", "/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    assert said.strip() == subject.generate([prompt], 5)[0][0]
    body["add_generation_prompt"] = True
    assert client("POST", "/v1/chat/completions", body).error["param"] == "add_generation_prompt"


def test_models_and_metrics_are_told(client: Client) -> None:
    client.completion()
    (about,) = client("GET", "/v1/models").json["data"]
    assert about["id"] == "m" and about == client("GET", "/v1/models/m").json
    assert client("GET", "/healthz").json["status"] == "ok" and client("GET", "/readyz").json["status"] == "ready"
    text = client("GET", "/metrics").body.decode()
    assert 'expunge_requests_total{path="/v1/completions",status="200"}' in text
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(float(line.rpartition(" ")[2]) >= 0 for line in lines)
    assert f"expunge_request_seconds_count {lines[-3].rpartition(' ')[2]}" in text


def test_a_guarded_service_tells_no_log_probs(subject: Any) -> None:
    from expunge.records.serving import ServeSettings

    assert not Service(subject, ServeSettings(), name="m", guard="some").logprobs
    with serving(subject, guard="some", started=False) as made:
        assert made.completion(logprobs=1).error["code"] == "unsupported_parameter"
