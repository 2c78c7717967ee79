"""Requests carried out: ordinary runs one after the other, each with its entries in the ledger.

An entry "started" is written before a run and "done" after it and its questions, so a kill at any moment leaves a
ledger that says how far it came. A run that began uses the requests that the ledger held then, also when it goes on
later.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from expunge.api import forget
from expunge.console import Reporter
from expunge.data.requested import find_rows, read_salt
from expunge.errors import ExpungeError, InterruptedRun, MissingError, UsageError
from expunge.ledger.store import DeletionLedger
from expunge.models.checks import check_model
from expunge.output import refuse_output
from expunge.records.requests import DeletionRequest, ModelReading, RequestStream, StartedRun, stream_of
from expunge.records.run import RunFolder
from expunge.records.settings import RunSettings
from expunge.records.task import Example, Task
from expunge.requests.asking import ask, fingerprint_of
from expunge.sequential.stream import next_batch, task_of_reading, task_of_run

ASKED = "asked"
"""Folder of the answers within the folder of the runs."""


class ReboundError(ExpungeError, RuntimeError):
    """Deleted rows came back."""

    exit_code = 1


class Carrier:
    """Carries out the requests of one ledger."""

    def __init__(self, path: Path, task: Task, reporter: Reporter) -> None:
        self.path, self.task, self.reporter = path, task, reporter
        self.ledger = DeletionLedger.open(path)
        self.salt = read_salt(path, self.stream().salt)

    def stream(self) -> RequestStream:
        self.ledger.check()
        found = stream_of(self.ledger.entries())
        assert found is not None, "status has read it"
        return found

    def run(self, *, model: str | Path | None, method: str | None, out: str | Path | None, batch: int | None,
            retrained: Sequence[str | Path] | None, attacks: Sequence[str] | None, resume: bool, again: bool,
            options: dict[str, Any]) -> RequestStream:
        stream, last = self.stream(), self._last()
        if stream.pending and not resume:
            raise UsageError(f"Run {stream.pending.run} was interrupted.", "Its requests are not done, and those after "
                             "it build on it.", f"Go on with it: expunge requests run {self.path} --resume")
        if stream.pending:
            stream = self._finish(stream.pending, method, options)
            last, model = self._last(), None
        method, place = method or (last.method if last else None), self._place(model, last)
        folder = Path(out) if out else (self._there(last.folder).parent if last else None)
        missing = [name for name, value in (("--model", place), ("--method", method), ("--out", folder)) if not value]
        if missing or method is None or folder is None or place is None:
            raise UsageError(f"The first run needs {', '.join(missing)}.", "Later ones take them from the ledger.",
                             f"Such as: expunge requests run {self.path} --model MODEL --method \"npo + retain_nll\" "
                             "--out runs")
        if last and method == last.method:
            options = last.options | options
        fixed: dict[str, Any] = {
            "method": method, "options": options, "batch": batch or (last.batch if last else 1),
            "attacks": tuple(attacks) if attacks is not None else last.attacks if last else (),
            "retrained": tuple(map(self._name, retrained)) if retrained is not None else (
                last.retrained if last else ())}
        settings = RunSettings(**options)
        self._begin(place, folder, fixed, settings, again)
        tried: set[str] = set()
        while True:
            stream = self.stream()
            if self._unasked(stream):  # a request that was added meanwhile
                self._reading(place, folder, fixed, settings)
                stream = self.stream()
            waiting = [*stream.in_state("open"),
                       *(r for r in stream.in_state("returned") if again and r.id not in tried)]
            rows = self._rows(stream.requests)
            deleted = {name for r in stream.in_state("done") for name in r.rows}
            before, found = next_batch(waiting, deleted, rows, fixed["batch"])
            if before:
                self.ledger.append("done", {"requests": before, "run": None, "seconds": 0.0, "reading": None})
                self.reporter.note(f"{', '.join(before)}: all rows were deleted before, so nothing was run.")
                continue
            if not found.requests:
                break
            tried |= set(found.requests)
            place = self._carry_out(found.requests, found.rows, place, folder, fixed, settings)
        return self._kept(folder)

    def check(self, model: str | Path, retrained: Sequence[str | Path] | None,
              attacks: Sequence[str] | None) -> ModelReading:
        """A reading of any model, with an alarm in the ledger where something came back."""
        check_model(model)
        last = self._last()
        if last is None:
            raise UsageError(f"Nothing of {self.path} was carried out yet.", "There is nothing that could come back.",
                             f"Carry out its requests: expunge requests run {self.path} ...")
        fixed = {"attacks": last.attacks if attacks is None else tuple(attacks),
                 "retrained": last.retrained if retrained is None else tuple(map(self._name, retrained))}
        folder = self._there(last.folder).parent
        return self._reading(model, folder, fixed, RunSettings(**last.options), chain=False)

    def _begin(self, place: str | Path, folder: Path, fixed: dict[str, Any], settings: RunSettings,
               again: bool) -> None:
        """The model must be what the last run left, or it is asked about all that was deleted before it is used."""
        stream, now = self.stream(), fingerprint_of(place)
        if stream.model is None or now == stream.model:
            if stream.model is None or self._unasked(stream):
                self._reading(place, folder, fixed, settings)
            return
        self.reporter.warn(f"{place} is not the model that the ledger knows ({now}, not {stream.model}). It is asked "
                           "about everything that was deleted before it is used.")
        reading = self._reading(place, folder, fixed, settings, chain=False)
        if reading.returned and not again:
            raise ReboundError(
                f"{place} knows deleted rows again: {', '.join(sorted(reading.returned))}.",
                "It was changed since they were deleted, as by a fine-tuning. The alarm is in the ledger.",
                "Begin from the model that the last run left, or delete them again on this one with --again.")
        self.ledger.append("checked", {"chain": True, "reading": reading.to_json()})

    def _carry_out(self, requests: tuple[str, ...], rows: tuple[Example, ...], place: str | Path, folder: Path,
                   fixed: dict[str, Any], settings: RunSettings) -> Path:
        """One run, from its first entry to its last; the folder that it leaves."""
        stream = self.stream()
        run = f"{len(stream.runs) + 1:03d}"
        task = task_of_run(self.task, rows, self._flat(stream.requests))
        refuse_output(folder / run, resume=False, overwrite=False)
        forget(place, task=task, method=fixed["method"], out=folder / run, settings=settings, dry_run=True)
        started = StartedRun(run=run, requests=requests, known=len(self.ledger), folder=self._relative(folder / run),
                             model=self._name(place), before=stream.model or "", **fixed)
        self.ledger.append("started", started.to_json())
        self._kept(folder)
        self._finish(started, None, {})
        return folder / run

    def _finish(self, started: StartedRun, method: str | None, options: dict[str, Any]) -> RequestStream:
        """Carry a run that has begun to its end: the run, the questions, the entry."""
        if method not in (None, started.method) or any(
                getattr(RunSettings(**started.options), name) != value for name, value in options.items()):
            raise UsageError(f"Run {started.run} was begun with another recipe or other options.",
                             f"It was begun with {started.method!r} and {started.options or 'no options'}.",
                             "Go on with --resume alone; others can follow in the next run.")
        began, place, stream = time.monotonic(), self._there(started.folder), self.stream()
        if place.exists() and not RunFolder(place).record.is_file():
            shutil.rmtree(place)  # killed while the folder was being made: the ledger says that it is ours
        known = [r for r in stream.requests if r.number < started.known]
        mine = {r.id: r for r in known if r.id in started.requests}
        # A request is in `running` now, so what was deleted before is what other requests of that time had done.
        gone = {name for r in known if r.state == "done" and r.id not in mine for name in r.rows}
        found = self._rows(known)
        names = dict.fromkeys(name for i in started.requests for name in mine[i].rows if name not in gone)
        batch = [row for name in names for row in found[name]]
        settings = RunSettings(**started.options)
        self.reporter.note(f"Run {started.run}: {', '.join(started.requests)}, {len(batch)} rows, by {started.method}.")
        try:
            forget(self._model(started.model), task=task_of_run(self.task, batch, self._flat(known)),
                   method=started.method, out=place, settings=settings, resume=place.exists(), reporter=self.reporter)
        except InterruptedRun:
            raise
        except ExpungeError as problem:
            self.ledger.append("failed", {"run": started.run, "why": problem.what})
            raise
        seconds = round(time.monotonic() - began, 1)
        fixed = {"attacks": started.attacks, "retrained": started.retrained}
        reading = self._ask(place, place.parent, fixed, settings, run=started.run)
        self.ledger.append("done", {"requests": list(started.requests), "run": started.run, "seconds": seconds,
                                    "reading": reading.to_json()})
        self._alarm(reading)
        self._kept(place.parent)
        return self.stream()

    def _reading(self, place: str | Path, folder: Path, fixed: dict[str, Any], settings: RunSettings,
                 chain: bool = True) -> ModelReading:
        """Ask a model that no run just left. `chain`: the next run begins from it."""
        reading = self._ask(place, folder, fixed, settings)
        self.ledger.append("checked", {"chain": chain, "reading": reading.to_json()})
        self._alarm(reading)
        return reading

    def _alarm(self, reading: ModelReading) -> None:
        if reading.returned:
            self.ledger.append("rebound", {"model": reading.model, "run": reading.run, "rebounds": reading.rebounds})
            worst = max((by, name) for found in reading.rebounds.values() for name, by in found.items())
            self.reporter.warn(f"Deleted rows came back: {', '.join(sorted(reading.returned))}, {worst[1]} most, by "
                               f"{worst[0]:.2f}. The alarm is in the ledger.")

    def _ask(self, place: str | Path, folder: Path, fixed: dict[str, Any], settings: RunSettings,
             run: str = "") -> ModelReading:
        stream = self.stream()
        rows = self._rows(stream.requests)
        ids = {r.id: [row.id for name in r.rows for row in rows[name]] for r in stream.requests}
        answers = folder / ASKED / f"{len(self.ledger):04d}"
        first = self._there(stream.readings[0].folder) if stream.readings else None
        if first is not None and not first.is_dir():
            raise MissingError(f"There is no folder {first}.", "It holds the answers of the first model, which utility "
                               "is compared with.", "Restore it from a copy.")
        before = [r for r in stream.requests if r.done and r.state != "running"]  # not what is deleted again now
        return ask(place, task_of_reading(self.task, self._flat(stream.requests)), ids, folder=answers, first=first,
                   done=before, retrained=[str(self._model(p)) for p in fixed["retrained"]], attacks=fixed["attacks"],
                   settings=settings, shown=self._relative(answers), run=run)

    def _rows(self, requests: Sequence[DeletionRequest]) -> dict[str, list[Example]]:
        return find_rows(dict.fromkeys(name for r in requests for name in r.rows), self.task, self.salt)

    def _flat(self, requests: Sequence[DeletionRequest]) -> list[Example]:
        return [row for rows in self._rows(requests).values() for row in rows]

    def _unasked(self, stream: RequestStream) -> bool:
        """Whether the last reading asked fewer requests than there are."""
        asked = {name for values in stream.readings[-1].values.values() for name in values}
        return any(r.id not in asked for r in stream.in_state("open"))

    def _last(self) -> StartedRun | None:
        """The last run that was done."""
        return next((r for r in reversed(self.stream().runs) if r.after is not None), None)

    def _place(self, model: str | Path | None, last: StartedRun | None) -> str | Path | None:
        """The model to begin from, which must be there."""
        if model is not None:
            check_model(model, train=True)
            return model
        if last is None:
            return None
        place = self._there(last.folder)
        if not RunFolder(place).model.is_dir():
            raise MissingError(f"The model of run {last.run} is missing.", f"There is no {RunFolder(place).model}, and "
                               "later requests build on it.", f"Restore it, or name a copy with --model: its "
                               f"fingerprint is {last.after}.")
        return place

    def _kept(self, folder: Path) -> RequestStream:
        """The stream, also written beside the runs."""
        stream = self.stream()
        folder.mkdir(parents=True, exist_ok=True)
        stream.write(folder / RequestStream.FILE)
        return stream

    def _relative(self, place: Path) -> str:
        """A folder as the ledger has it: from its own, so that both can be moved together."""
        return os.path.relpath(place, self.path.parent)

    def _name(self, model: str | Path) -> str:
        """A model as the ledger has it: a folder, or a name of the hub."""
        return self._relative(Path(model)) if Path(model).exists() else str(model)

    def _there(self, name: str) -> Path:
        return self.path.parent / name

    def _model(self, name: str) -> str | Path:
        """The model that `_name` named."""
        place = self._there(name)
        return place if place.exists() else name
