"""Rows as an endpoint is asked them: turns of a conversation, or texts to be continued and scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from expunge.data.encoder import Encoder
from expunge.errors import DataError, UsageError, did_you_mean
from expunge.models.endpoint_client import EndpointClient, Refused, read_key, split_address
from expunge.needs import ModelNeed
from expunge.records.base import fingerprint
from expunge.records.prompt import PromptFormat
from expunge.records.task import Example, Opened

TEXT = frozenset[ModelNeed]({"generate", "prompt"})
SCORED = frozenset[ModelNeed]({"logp", "sequence"})
TRIED = "The sky is blue."
"""A text whose log-probabilities are asked for, to see whether they are told."""
@dataclass(frozen=True)
class Turn:
    """A part of a conversation; `opening` begins the reply, and `text` is continued as it stands."""

    role: str
    said: str


@dataclass(frozen=True)
class EndpointRow:
    """An example as an endpoint is asked it. Its units are turns, since its tokens are unknown."""

    id: str
    ids: tuple[Turn, ...]
    prompt: int
    answer: int
    given: str | None = None
    """Prompt and answer as one text, for log-probabilities; None where the form is unknown."""
    said: str = ""
    end: int = 0
    truncated: bool = False

    @property
    def key(self) -> str:
        return fingerprint([[turn.role, turn.said] for turn in self.ids] + [self.prompt, self.given, self.said])

    @property
    def supervised(self) -> int:
        return self.answer


@dataclass(frozen=True)
class EndpointConfig:
    """What is known of a model behind an address."""

    place: str
    client: EndpointClient
    model: str
    told: Mapping[str, Any]
    """What an endpoint of `expunge serve` says of its model; empty for any other."""
    scores: str
    """How log-probabilities are asked for; empty where they are not told."""
    template: str | None = None
    day: str = field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    model_type: ClassVar[str] = "endpoint"

    @property
    def form(self) -> tuple[str, str, str] | None:
        """What stands before an answer, between the two, and behind it; None where nobody says."""
        if self.template is not None:
            return self.template, " ", str(self.told.get("end") or "")
        row = str(self.told.get("row") or "")
        if row.count("{answer}") != 1 or "{prompt}" not in row.partition("{answer}")[0]:
            return None
        before, _, after = row.partition("{answer}")
        bare = before.rstrip(" ")
        return bare, before[len(bare):], after

    @property
    def offered(self) -> frozenset[ModelNeed]:
        return TEXT | SCORED if self.scores and self.form is not None else TEXT


def connect(place: str, template: str | None = None, key_file: Path | None = None) -> EndpointConfig:
    """Ask an endpoint which model it has and what it tells.

    Args:
        place: its address, with #MODEL where it has several.
        template: plain prompt template; its rows are then asked as texts to be continued.

    Raises:
        MissingError: nothing answers there.
        UsageError: it refuses the key, or has several models or none of that name.
    """
    base, wanted = split_address(place)
    client = EndpointClient(base, read_key(key_file))
    try:
        listed = client.ask("/models").get("data")
    except Refused as refused:
        raise UsageError(f"{base} is no endpoint in the shape of OpenAI's.",
                         f"{base}/models answers with status {refused.status}: {refused.message}",
                         "Check the address; it usually ends in /v1.") from None
    found = {str(one["id"]): one for one in listed or () if isinstance(one, dict) and "id" in one}
    if not wanted and len(found) == 1:
        wanted = next(iter(found))
    if wanted not in found:
        known = did_you_mean(wanted, found) if wanted else f"Known: {', '.join(sorted(found)) or 'none'}."
        raise UsageError(f"{base} has no model {wanted!r}." if wanted else f"{base} has {len(found)} models.", known,
                         f"Name one behind the address: {base}#MODEL")
    told = found[wanted].get("expunge")
    told = told if isinstance(told, dict) else {}
    scores = "" if told.get("logprobs") is False else _scores(client, wanted)
    return EndpointConfig(place, client, wanted, told, scores, template)


def _scores(client: EndpointClient, model: str) -> str:
    """The way in which log-probabilities of a text are told, by trying: without new tokens, or with one."""
    for way in ("0", "1"):
        try:
            values, _, _ = ask_logps(client, model, way, TRIED)
        except (Refused, DataError):
            continue
        if values:
            return way
    return ""


def ask_logps(client: EndpointClient, model: str, way: str,
              text: str) -> tuple[list[float | None], list[int], list[bool]]:
    """Of each token of a text: log p (None of one that nothing predicts), the character it ends at, and whether it is
    the likeliest there.

    Raises:
        Refused: the endpoint does not take such a request.
        DataError: it takes it, and tells no log-probabilities.
    """
    found = client.ask("/completions", {"model": model, "prompt": text, "max_tokens": int(way), "temperature": 0,
                                        "echo": True, "logprobs": 1})
    try:
        told = found["choices"][0]["logprobs"]
        words = [str(word) for word in told["tokens"]]
        values = [None if v is None else float(v) for v in told["token_logprobs"]]
        tops = [None if not top else max(map(float, top.values())) for top in told["top_logprobs"]]
        offsets = [int(at) for at in told["text_offset"]]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise DataError("The endpoint tells no log-probabilities of a text.",
                        "It answered echo and logprobs of /completions without them.") from None
    first = 0 if text.startswith(words[0] if words else "") else 1  # a token before the text, such as <s>
    ends = [*[0] * first, *accumulate(map(len, words[first:]))]
    if not "".join(words[first:]).startswith(text):  # tokens of parts of characters cannot be joined
        ends = [*offsets[1:], len(text)]
    kept = [k for k, end in enumerate(ends) if 0 < end <= len(text)]
    hits = [v is not None and top is not None and v >= top for v, top in zip(values, tops, strict=True)]
    return [values[k] for k in kept], [ends[k] for k in kept], [hits[k] for k in kept]


class EndpointEncoder(Encoder):
    """Examples as turns of a conversation, or as texts to be continued where a template is given."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config

    @property
    def fingerprint(self) -> str:
        return fingerprint(["endpoint", self.config.template, list(self.config.form or ())])

    def encode(self, example: Example, *, answer: str | None = None, prompt: str | None = None) -> EndpointRow:
        """Raises DataError for an image."""
        if example.image is not None:
            raise DataError(f"Row {example.id} holds an image, and an endpoint is asked in words.", "",
                            "Name rows of text.")
        answer = example.answer if answer is None else answer
        prompt = example.prompt if prompt is None else prompt
        opening, gap = (example.opening, example.gap) if isinstance(example, Opened) else ("", "")
        last = (Turn("assistant", answer),)
        if example.kind == "text":
            end = str(self.config.told.get("end") or "")
            return EndpointRow(example.id, (Turn("text", answer),), 0, int(bool(answer.strip())), "", answer + end,
                               int(bool(end)))
        given, said, end = self._joined(example, prompt, answer, opening, gap)
        if given is not None and (example.kind == "completion" or self.config.template is not None):
            turns: tuple[Turn, ...] = (Turn("text", given.rstrip(" ")),)
        else:
            asked = [Turn(*pair) for pair in example.messages] or [Turn("user", prompt)]
            turns = (*asked, *((Turn("opening", opening),) if opening else ()))
        known = given if self.config.scores else None
        return EndpointRow(example.id, (*turns, *last), len(turns), int(bool(answer.strip())), known, said + end,
                           int(bool(end)))

    def _joined(self, example: Example, prompt: str, answer: str, opening: str,
                gap: str) -> tuple[str | None, str, str]:
        """Prompt, answer and end as they stand in one text; no prompt where the form is unknown."""
        form = ("{prompt}", "", str(self.config.told.get("end") or "")) if example.kind == "completion" else (
            self.config.form if not example.messages else None)
        if form is None:
            return None, answer, ""
        before, between, end = form
        before, answer = before.replace("{prompt}", prompt), answer if example.kind == "completion" else answer.strip()
        if opening:
            return before + between + opening, gap + answer, end
        return before, between + answer, end

    def prompt(self, example: Example, prompt: str | None = None) -> tuple[Turn, ...]:
        row = self.encode(example, prompt=prompt)
        return row.ids[: row.prompt]

    def collate(self, rows: Sequence[Any]) -> NoReturn:
        no_weights("given a batch")

    def concat(self, batches: Sequence[Any]) -> NoReturn:
        no_weights("given a batch")

    def batches(self, rows: Sequence[Any], chosen: Sequence[int] | None = None) -> Iterator[list[int]]:
        """One row each."""
        yield from ([i] for i in (range(len(rows)) if chosen is None else chosen))

    def check(self, rows: Sequence[Any], config: Any, what: str) -> list[DataError]:
        """Its context is the endpoint's own business."""
        return []

    def check_alternatives(self, rows: Sequence[Any], config: Any, what: str) -> list[DataError]:
        return []

    def describe(self, rows: Sequence[Example]) -> PromptFormat:
        told = self.config.told.get("prompt_format")
        way = f"the plain template {self.config.template!r}, continued" if self.config.template is not None else (
            f"messages of a chat, which the endpoint puts in {told or 'a form of its own'}")
        why = "" if self.config.scores else "The endpoint tells no log-probabilities: only its words are judged."
        if self.config.scores and self.config.form is None:
            why = ("The endpoint tells log-probabilities of texts, but not how it puts a question: they are not asked "
                   "for. Give the form with --template.")
        return PromptFormat(format=way, notes=(why,) if why else (), encoder=self.fingerprint)

    def save(self, folder: Path) -> None:
        no_weights("saved")


def no_weights(what: str) -> NoReturn:
    raise UsageError(f"An endpoint cannot be {what} from here.", "Its weights are elsewhere.",
                     "Name a run or a model folder.")
