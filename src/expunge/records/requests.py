"""Requests to delete, as a ledger tells of them: what was asked, what was done, and what models said since.

A ledger holds no row and no name: rows are named by salted hashes. Everything here follows from the entries alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field

from expunge.records.base import Record

STREAM_SCHEMA = "expunge.requests/1"
PLAIN = "probability"
"""Condition of a reading: mean probability of the answers as asked."""
State = Literal["open", "running", "done", "returned"]


class AnyEntry(Protocol):
    """What is needed of an entry of the ledger."""

    @property
    def number(self) -> int: ...
    @property
    def time(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def body(self) -> dict[str, Any]: ...


class ModelReading(Record):
    """What one model said of all requests that were known then."""

    model: str
    """Fingerprint of its weights."""
    run: str = ""
    """The run that left it; empty for another model."""
    values: dict[str, dict[str, float]]
    """Condition (probability, keyword, or "probability under ATTACK") -> request -> mean over its rows."""
    levels: dict[str, dict[str, float]] = {}
    """The same of models that never saw the rows."""
    noise: dict[str, float] = {}
    """Condition -> by how much such models differ."""
    retain: float | None = None
    """Mean probability of the retain rows."""
    retain_before: float | None = None
    """That of the first model, on the same rows."""
    rebounds: dict[str, dict[str, float]] = {}
    """Condition -> deleted request that came back -> by how much, beyond the noise floor only."""
    folder: str = ""
    """Where the answers are, from the ledger's folder."""
    seconds: float = 0.0

    @property
    def utility(self) -> float | None:
        """Share of the first model's probability of the retain rows."""
        return self.retain / self.retain_before if self.retain is not None and self.retain_before else None

    @property
    def returned(self) -> set[str]:
        """Deleted requests that came back in at least one condition."""
        return {name for found in self.rebounds.values() for name in found}


class DeletionRequest(Record):
    """One request and how it stands."""

    id: str
    """r1, r2 ... in the order of the ledger."""
    number: int
    """Of its entry."""
    added: str
    by: str
    """entity, rows, ids or query."""
    rows: tuple[str, ...]
    """Salted hash of each row."""
    entities: int
    """How many the rows are about."""
    deadline: str | None = None
    note: str = ""
    state: State = "open"
    done: str | None = None
    """When it was carried out last."""
    late: bool = False
    """Carried out after its deadline, or still open then."""
    run: str | None = None
    """The run that carried it out; None while it is open, and where earlier runs had deleted all of its rows."""
    after: dict[str, float] = {}
    """Condition -> what was left of it right after."""


class StartedRun(Record):
    """A run that the ledger tells of."""

    run: str
    requests: tuple[str, ...]
    known: int
    """Entries of the ledger when it began: later requests did not change its rows."""
    folder: str
    """From the ledger's folder."""
    model: str
    """What it began from: a place as it was typed, or the run before, from the ledger's folder."""
    method: str
    options: dict[str, Any]
    """Those that were given."""
    batch: int = 1
    """Requests of one run."""
    attacks: tuple[str, ...] = ()
    retrained: tuple[str, ...] = ()
    before: str
    """Fingerprint of the model it began from."""
    after: str | None = None
    """Of the one that it left; None while it is not done."""
    failed: str = ""
    """Why it could not be carried out; its requests are open again."""
    seconds: float = 0.0


class RequestStream(Record):
    """All requests of a ledger, what was run, and what was found."""

    FILE: ClassVar[str] = "stream.json"
    schema_: str = Field(STREAM_SCHEMA, alias="schema")
    model_config = Record.model_config | {"populate_by_name": True}
    task: str
    """Its name; "files" for one of files, whose names may say too much."""
    task_fingerprint: str
    """Salted hash of the task's fingerprint."""
    salt: str
    """SHA-256 of the salt."""
    now: str
    """What deadlines are compared with: the machine's clock, but never before the last entry."""
    requests: tuple[DeletionRequest, ...] = ()
    runs: tuple[StartedRun, ...] = ()
    readings: tuple[ModelReading, ...] = ()
    """Of the models of the chain, one after the other; the first is of the model before any deletion."""
    alarms: tuple[dict[str, Any], ...] = ()
    """Every time that deleted rows came back: model, requests and by how much, in this chain or in another model."""

    def in_state(self, *states: State) -> list[DeletionRequest]:
        return [r for r in self.requests if r.state in states]

    @property
    def pending(self) -> StartedRun | None:
        """A run that began and is not done."""
        last = self.runs[-1] if self.runs else None
        return last if last and last.after is None and not last.failed else None

    @property
    def late(self) -> list[DeletionRequest]:
        return [r for r in self.requests if r.late]

    @property
    def next_deadline(self) -> DeletionRequest | None:
        """The open request that is due first."""
        due = [r for r in self.in_state("open", "running") if r.deadline]
        return min(due, key=lambda r: end_of(r.deadline or ""), default=None)

    @property
    def model(self) -> str | None:
        """Fingerprint of the model that the stream has come to; None before the first run or reading."""
        return self.readings[-1].model if self.readings else None


def end_of(deadline: str) -> datetime:
    """The last moment of a deadline: a day ends at midnight UTC, a time without zone is in UTC."""
    found = datetime.fromisoformat(deadline)
    if len(deadline) <= len("2026-12-31"):
        found = found.replace(hour=23, minute=59, second=59, microsecond=999999)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def is_late(deadline: str | None, time: str) -> bool:
    return deadline is not None and datetime.fromisoformat(time) > end_of(deadline)


def stream_of(entries: Iterable[AnyEntry], clock: str | None = None) -> RequestStream | None:
    """What the entries of a ledger come to; None where no request was ever added.

    Args:
        clock: the time now, UTC and ISO 8601; the machine's by default.
    """
    found = list(entries)
    first = next((e for e in found if e.kind == "stream"), None)
    if first is None:
        return None
    # A clock that was set back must not make a late request early again.
    now = max(clock or datetime.now(UTC).isoformat(timespec="milliseconds"), found[-1].time)
    requests: dict[str, DeletionRequest] = {}
    runs: list[StartedRun] = []
    readings: list[ModelReading] = []
    alarms: list[dict[str, Any]] = []
    last: ModelReading | None = None
    for entry in found:
        body = entry.body
        if entry.kind == "request":
            made = DeletionRequest(id=f"r{len(requests) + 1}", number=entry.number, added=entry.time, **{
                key: body[key] for key in ("by", "rows", "entities", "deadline", "note")})
            requests[made.id] = made
        elif entry.kind == "started":
            runs.append(StartedRun(**body))
        reading = ModelReading(**body["reading"]) if entry.kind in ("checked", "done") and body["reading"] else None
        # Of the reading, not of the entry "rebound" after it, which a kill in between would lose. A reading that is
        # taken into the chain later is there twice.
        if reading is not None and reading != last:
            last = reading
            if reading.returned:
                alarms.append({"time": entry.time, "model": reading.model, "run": reading.run,
                               "rebounds": reading.rebounds})
        if entry.kind == "checked":
            if body["chain"] and reading is not None:
                readings.append(reading)
        elif entry.kind == "done":
            if reading is not None:
                readings.append(reading)
                runs[-1] = runs[-1].model_copy(update={"after": reading.model, "seconds": body["seconds"]})
            for name in body["requests"]:
                requests[name] = _carried_out(requests[name], entry.time, body["run"], readings[-1])
        elif entry.kind == "failed":
            runs[-1] = runs[-1].model_copy(update={"failed": body["why"]})
    stream = RequestStream(task=first.body["task"], task_fingerprint=first.body["fingerprint"], now=now,
                           salt=first.body["salt"], runs=tuple(runs), readings=tuple(readings), alarms=tuple(alarms))
    return stream.model_copy(update={"requests": tuple(_standing(r, stream) for r in requests.values())})


def _carried_out(request: DeletionRequest, time: str, run: str | None, reading: ModelReading) -> DeletionRequest:
    after = {condition: values[request.id] for condition, values in reading.values.items() if request.id in values}
    return request.model_copy(update={"done": time, "run": run, "after": after, "state": "done",
                                      "late": is_late(request.deadline, time)})


def _standing(request: DeletionRequest, stream: RequestStream) -> DeletionRequest:
    """With the state that follows from the last run and the last reading."""
    state = request.state
    if state == "done" and stream.readings and request.id in stream.readings[-1].returned:
        state = "returned"
    if stream.pending and request.id in stream.pending.requests:
        state = "running"
    late = request.late if request.done else is_late(request.deadline, stream.now)
    return request.model_copy(update={"state": state, "late": late})


def curves(stream: RequestStream, condition: str = PLAIN) -> tuple[dict[str, Sequence[float]], Mapping[str, int]]:
    """Of each request its values over the readings that asked it, and the index of the first after it was done.

    A request that was added later has a shorter curve, whose last value is that of the last reading.
    """
    found = {r.id: [reading.values[condition][r.id] for reading in stream.readings
                    if r.id in reading.values.get(condition, {})] for r in stream.requests}
    done: dict[str, int] = {}
    for request in stream.requests:
        place = next((i for i, one in enumerate(stream.readings) if one.run and one.run == request.run), None)
        if place is not None:
            done[request.id] = place - (len(stream.readings) - len(found[request.id]))
    return {name: values for name, values in found.items() if values}, done
