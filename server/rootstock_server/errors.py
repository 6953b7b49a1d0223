"""The server's one error tree: each refused request is one of these, with its statuses.

This room refuses to know about transports: `api/` turns these classes into bodies and status codes.

    RootstockError
    ├── ClientError                 the caller must change something
    │   ├── BadRequest              400 INVALID_ARGUMENT
    │   │   └── TooLarge            413 OUT_OF_RANGE
    │   ├── Unauthenticated         401 UNAUTHENTICATED
    │   ├── Forbidden               403 PERMISSION_DENIED
    │   ├── Untrusted               403 PERMISSION_DENIED
    │   ├── UnknownModel            404 NOT_FOUND
    │   ├── Unknown                 404 NOT_FOUND
    │   ├── AdapterMismatch         400 FAILED_PRECONDITION
    │   ├── Conflict                409 ABORTED
    │   ├── GateNotMet              409 FAILED_PRECONDITION
    │   └── OverQuota               429 RESOURCE_EXHAUSTED
    ├── Overloaded                  503 UNAVAILABLE, with Retry-After
    ├── DeadlineExceeded            504 DEADLINE_EXCEEDED
    └── ServerFault                 500 INTERNAL
        └── CorruptAdapter          500 DATA_LOSS
"""

from __future__ import annotations

from typing import ClassVar


class RootstockError(Exception):
    """`message` says what is wrong and what to do next; `param` names the field."""

    status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = None
    retry_after_s: ClassVar[int | None] = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ClientError(RootstockError):
    status = 400
    grpc_status = "INVALID_ARGUMENT"
    type = "invalid_request_error"


class BadRequest(ClientError):
    """A field is missing, malformed or out of its limits."""


class TooLarge(BadRequest):
    """The body has more bytes than are read."""

    status = 413
    grpc_status = "OUT_OF_RANGE"


class Unauthenticated(ClientError):
    status = 401
    grpc_status = "UNAUTHENTICATED"
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ClientError):
    status = 403
    grpc_status = "PERMISSION_DENIED"
    type = "permission_error"


class Untrusted(ClientError):
    """The server loads signed versions only, and no trusted key has signed this one."""

    status = 403
    grpc_status = "PERMISSION_DENIED"
    type = "permission_error"
    code = "signature_required"


class UnknownModel(ClientError):
    """No base, adapter, version, alias or task of that name exists for this tenant."""

    status = 404
    grpc_status = "NOT_FOUND"
    code = "model_not_found"


class Unknown(ClientError):
    """No file, job, version, alias or other thing with that id exists for this tenant."""

    status = 404
    grpc_status = "NOT_FOUND"
    code = "not_found"


class AdapterMismatch(ClientError):
    """The version exists but cannot answer this: wrong base, or a kind unfit for the call."""

    status = 400
    grpc_status = "FAILED_PRECONDITION"
    code = "adapter_mismatch"


class Conflict(ClientError):
    """Somebody else was first, or the object is not in a state that allows this."""

    status = 409
    grpc_status = "ABORTED"
    code = "conflict"


class GateNotMet(ClientError):
    """A promotion's demand is not met; the message has the figures."""

    status = 409
    grpc_status = "FAILED_PRECONDITION"
    code = "gate_not_met"


class OverQuota(ClientError):
    status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retry_after_s = 1


class Overloaded(RootstockError):
    """The queue is full, or the engine is restarting: the same request may succeed later."""

    status = 503
    grpc_status = "UNAVAILABLE"
    type = "service_unavailable_error"
    code = "overloaded"
    retry_after_s = 1


class DeadlineExceeded(RootstockError):
    """The answer took longer than it was wanted (`request_timeout_s`, or a gRPC deadline)."""

    status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    code = "deadline_exceeded"


class ServerFault(RootstockError):
    """Our mistake. The details are in the server's log, not in the answer."""


class CorruptAdapter(ServerFault):
    """The stored bytes of a version no longer match its digest: nobody answers."""

    grpc_status = "DATA_LOSS"
    code = "corrupt_adapter"
