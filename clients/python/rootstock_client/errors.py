"""What can go wrong when talking to a server: it refused, or it could not be reached.

This room refuses to know transports: both doors' refusals become the same `ApiError`.

    RootstockClientError    the answer is not one of a Rootstock server, or:
    ├── ApiError            the server refused
    └── Unreachable         no answer, or one that broke off
"""

from __future__ import annotations

from rootstock_wire.openai import ErrorDetail


class RootstockClientError(Exception):
    """`message` says what is wrong, in words fit for a user."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ApiError(RootstockClientError):
    """The server refused the request. `type`, `param` and `code` are those of OpenAI's error body.

    `status` is the HTTP status; over gRPC, and inside a stream, the HTTP status of the same
    refusal. `retry_after_s` is set where the same request may succeed later.
    """

    def __init__(self, detail: ErrorDetail, *, status: int, retry_after: str | None = None) -> None:
        super().__init__(detail.message)
        self.status = status
        self.type = detail.type
        self.param = detail.param
        self.code = detail.code
        # A proxy may send a date instead of seconds, which no one here can plan by.
        self.retry_after_s = int(retry_after) if retry_after and retry_after.isdigit() else None


class Unreachable(RootstockClientError):
    """Nobody listens there, the time was up, or the connection broke before the answer's end."""
