"""Errors of the endpoint, in the shape that clients of OpenAI read."""

from __future__ import annotations

import math
import traceback
from typing import Any


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        code: one word for programs.
        param: the field of the body that is wrong.
        retry: seconds after which to ask again, where that may help.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None,
                 retry: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry = status, message, code, param, retry

    @property
    def kind(self) -> str:
        """What OpenAI calls the type of the error."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        found = {} if self.retry is None else {"Retry-After": str(max(1, math.ceil(self.retry)))}
        return found | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def place_of(error: BaseException) -> str:
    """File and line where an error was raised; its text may quote a prompt, this does not."""
    kept = traceback.extract_tb(error.__traceback__)
    return f"{kept[-1].filename.rpartition('/')[2]}:{kept[-1].lineno}" if kept else ""
