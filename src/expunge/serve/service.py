"""The endpoint: what is asked of which path, who may ask it, and what is written down of it."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

from expunge.data.text_encoder import TextEncoder
from expunge.models.language import CausalLM
from expunge.records.serving import LOOPBACK, ServeSettings
from expunge.serve.bodies import LARGEST, ServeRequest, chat_asked, completion_asked, parsed
from expunge.serve.counters import Counters, RequestLog, resident_bytes
from expunge.serve.engine import Engine, Job
from expunge.serve.errors import ApiError, place_of
from expunge.serve.keys import Keys, RateLimit
from expunge.serve.replies import Heading, Stream, whole
from expunge.serve.row_format import row_format
from expunge.serve.web import (
    ClientDisconnect,
    FastAPI,
    HTTPException,
    JSONResponse,
    PlainTextResponse,
    Request,
    Response,
    StreamingResponse,
)

BODY_S = 30.0
"""Seconds that a client has to send its body."""
GONE = 499
"""Status that is logged where the client went away; nobody reads it."""


@dataclass
class LogFields:
    """What the log will say of one request."""

    owner: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


class Service:
    """One model behind its paths.

    Args:
        guard: what stands between the model and its answers, in words; empty for nothing.
        keys: None: nobody is asked for one.
        log: where a line per request goes.
    """

    def __init__(self, subject: CausalLM, settings: ServeSettings, *, name: str, guard: str = "",
                 keys: Keys | None = None, log: TextIO | None = None) -> None:
        self.subject, self.settings, self.name, self.guard, self.keys = subject, settings, name, guard, keys
        self.created, self.open = int(time.time()), 0
        self.log = RequestLog(log, settings.log_prompts)
        self.engine = Engine(subject, settings, self._failed)
        self.rates = RateLimit(settings.rate)
        self.counters = Counters({"expunge_waiting": lambda: self.engine.waiting, "expunge_active": lambda: self.open,
                                  "expunge_log_lines_lost_total": lambda: self.log.lost,
                                  "expunge_resident_memory_bytes": resident_bytes},
                                 {"model": name, "guard": guard or "none"})
        self.logprobs = not settings.no_logprobs and subject.decode is None and not guard
        """Whether log-probabilities are told. Behind a guard they are not: it may act on decoding alone."""
        self.fingerprint = subject.fingerprint

    def app(self) -> FastAPI:
        """The application, for uvicorn."""
        made = FastAPI(title="expunge", docs_url=None, redoc_url=None, openapi_url=None)
        for path, method, inside in (
                ("/v1/models", "GET", self._models), ("/v1/models/{model:path}", "GET", self._model),
                ("/v1/chat/completions", "POST", partial(self._answer, chat_asked)),
                ("/v1/completions", "POST", partial(self._answer, completion_asked)),
                ("/metrics", "GET", self._metrics)):
            made.add_route(path, partial(self._guarded, path, inside), methods=[method])
        made.add_route("/healthz", self._health, methods=["GET"])
        made.add_route("/readyz", self._ready, methods=["GET"])
        made.add_exception_handler(HTTPException, self._no_path)
        return made

    # Paths

    async def _health(self, request: Request) -> Response:
        alive = self.engine.alive
        return JSONResponse({"status": "ok" if alive else "the thread of the model has ended"}, 200 if alive else 500)

    async def _ready(self, request: Request) -> Response:
        ready = self.engine.alive and not self.engine.draining
        return JSONResponse({"status": "ready" if ready else "shutting down"}, 200 if ready else 503)

    async def _metrics(self, request: Request, told: LogFields) -> Response:
        return PlainTextResponse(self.counters.text(), media_type="text/plain; version=0.0.4")

    async def _models(self, request: Request, told: LogFields) -> Response:
        return JSONResponse({"object": "list", "data": [self._about()]})

    async def _model(self, request: Request, told: LogFields) -> Response:
        if request.path_params["model"] != self.name:
            raise self._unknown(request.path_params["model"])
        return JSONResponse(self._about())

    def _about(self) -> dict[str, Any]:
        encoder: TextEncoder = self.subject.encoder
        return {"id": self.name, "object": "model", "created": self.created, "owned_by": "expunge", "expunge": {
            "fingerprint": self.fingerprint, "guard": self.guard or None, "logprobs": self.logprobs,
            "row": row_format(encoder), "prompt_format": encoder.prompt_format, "end": encoder.processor.eos_token,
            "context": self.subject.context, "vocabulary": self.subject.outcomes,
            "max_prompt": self.settings.max_prompt, "max_tokens": self.settings.max_tokens,
            "batch": self.settings.batch}}

    async def _answer(self, read: Callable[[dict[str, Any]], tuple[str, ServeRequest]], request: Request,
                      told: LogFields) -> Response:
        if self.engine.draining:
            raise ApiError(503, "The server is shutting down.", "shutting_down", retry=10)
        name, asked = read(parsed(await _body(request)))
        if name != self.name:
            raise self._unknown(name)
        if asked.logprobs is not None and not self.logprobs:
            raise ApiError(400, "This server tells no log-probabilities. Leave logprobs out.", "unsupported_parameter",
                           "logprobs")
        job = Job(asked, asyncio.get_running_loop())
        told.fields |= {"stream": asked.stream, "prompt": [_private(row) for row in asked.prompts]}
        self.engine.put(job)
        heading = Heading(("chatcmpl-" if asked.chat else "cmpl-") + uuid.uuid4().hex, int(time.time()), self.name,
                          self.fingerprint, asked.chat)
        try:
            await self._begun(job, request)
            if asked.stream:
                return _Streaming(Stream(heading, job), partial(self._ended, job, told))
            while (event := await _next(job, request)).kind != "done":
                if event.error is not None:
                    raise event.error
        except BaseException:
            self.engine.leave(job)
            raise
        self._ended(job, told)
        return JSONResponse(whole(heading, job))

    async def _begun(self, job: Job, request: Request) -> None:
        """Wait for the job's turn; it leaves the line where that takes too long."""
        try:
            event = await asyncio.wait_for(_next(job, request), self.settings.wait)
        except TimeoutError:
            raise ApiError(503, f"No turn came within {self.settings.wait:g} seconds. Ask again later.",
                           "overloaded", retry=5) from None
        if event.error is not None:
            raise event.error

    def _ended(self, job: Job, told: LogFields, gone: bool = False) -> None:
        """What a job came to; a stream that nobody reads is ended."""
        self.engine.leave(job)
        said = job.completion_tokens
        self.counters.add("expunge_tokens_total", job.prompt_tokens, kind="prompt")
        self.counters.add("expunge_tokens_total", said, kind="completion")
        told.fields |= {"prompt_tokens": job.prompt_tokens, "completion_tokens": said,
                        "finish": None if gone else ",".join(choice.finish for choice in job.choices),
                        "waited_s": round(job.began - job.entered, 4) if job.began else None,
                        "answer": [choice.text for choice in job.choices]}

    # Around every path

    async def _guarded(self, path: str, inside: Callable[[Request, LogFields], Awaitable[Response]],
                       request: Request) -> Response:
        """Ask for the key, count, log, and turn every problem into an answer of the same shape."""
        told, began, number = LogFields(), time.monotonic(), uuid.uuid4().hex[:16]
        finish = partial(self._written, path, number, told, began)
        self.open += 1
        try:
            told.owner = self._who(request)
            if request.method == "POST":
                self.rates.take(told.owner)
            response = await inside(request, told)
        except ApiError as problem:
            told.fields["error"] = problem.code
            response = JSONResponse(problem.body, problem.status, headers=problem.headers)
        except (ClientDisconnect, ConnectionError):
            self.counters.add("expunge_disconnects_total")
            response = Response(status_code=GONE)
        except asyncio.CancelledError:
            finish(GONE)
            raise
        except Exception as error:
            self._failed(type(error).__name__, place_of(error), "")
            ours = ApiError(500, "The server could not answer this request.", "internal_error")
            response = JSONResponse(ours.body, 500)
        response.headers["x-request-id"] = number
        if isinstance(response, _Streaming):
            response.finish = finish  # once its last event is sent, or its client has gone
        else:
            finish(response.status_code)
        return response

    def _written(self, path: str, number: str, told: LogFields, began: float, status: int, gone: bool = False) -> None:
        self.open -= 1
        took = time.monotonic() - began
        if gone:
            self.counters.add("expunge_disconnects_total")
        self.counters.add("expunge_requests_total", path=path.replace("{model:path}", "*"), status=str(status))
        self.counters.seconds(took)
        self.log.write("request", request=number, path=path.replace("{model:path}", "*"), status=status,
                       key=told.owner or None, seconds=round(took, 4), **told.fields)

    def _who(self, request: Request) -> str:
        """The owner of the key; without keys the address. Raises ApiError for everybody else."""
        address = request.client.host if request.client else ""
        if self.keys is not None:
            return self.keys.owner(request.headers.get("authorization"))
        if self.settings.host in LOOPBACK:
            # Without keys a page of another site, open in a browser of this machine, must not be able to ask.
            host = (request.headers.get("host") or "").rsplit(":", 1)[0].strip("[]")
            if host not in LOOPBACK or "origin" in request.headers:
                raise ApiError(403, "Without an API key only programs of this machine are served.", "not_this_machine")
        return address

    def _unknown(self, name: str) -> ApiError:
        return ApiError(404, f"There is no model {name[:80]!r} here. It is called {self.name!r}.", "model_not_found",
                        "model")

    async def _no_path(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        what = "is not asked that way" if status == 405 else "does not exist"
        problem = ApiError(status, f"{request.method} {request.url.path[:80]} {what}. There are /v1/models, "
                                   "/v1/completions, /v1/chat/completions, /healthz, /readyz and /metrics.",
                           "unknown_path")
        self.counters.add("expunge_requests_total", path="other", status=str(status))
        return JSONResponse(problem.body, status)

    def _failed(self, kind: str, where: str, trace: str) -> None:
        self.counters.add("expunge_errors_total", type=kind)
        self.log.write("error", type=kind, where=where or None, trace=trace or None)


class _Streaming(StreamingResponse):
    """A stream that says when it is over, also where its client has gone."""

    def __init__(self, stream: Stream, ended: Callable[..., None]) -> None:
        self._stream, self._ended = stream, ended
        self.finish: Callable[..., None] = lambda status, gone: None
        super().__init__(stream.events(), media_type="text/event-stream",
                         headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        except OSError:  # the connection broke
            pass
        finally:
            gone = not self._stream.ended
            self._ended(gone=gone)
            error = self._stream.error
            self.finish(GONE if gone else error.status if error else 200, gone)


async def _next(job: Job, request: Request) -> Any:
    """The job's next event. Raises ConnectionError where the client went away meanwhile."""
    while True:
        try:
            return await asyncio.wait_for(job.events.get(), 0.5)
        except TimeoutError:
            if await request.is_disconnected():
                raise ConnectionError from None


async def _body(request: Request) -> bytes:
    """The whole body. Raises ApiError where it is no JSON by its type, too large, or too slow."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, "The body must be sent as Content-Type: application/json.", "unsupported_media_type")
    found = bytearray()

    async def read() -> None:
        async for piece in request.stream():
            found.extend(piece)
            if len(found) > LARGEST:
                raise ApiError(413, f"The body is larger than {LARGEST} bytes.", "body_too_large")

    try:
        await asyncio.wait_for(read(), BODY_S)
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {BODY_S:g} seconds.", "body_too_slow") from None
    return bytes(found)


def _private(row: Any) -> str:
    """What was asked, for a log that may hold it."""
    return json.dumps(row.messages) if row.messages else row.prompt or row.answer
