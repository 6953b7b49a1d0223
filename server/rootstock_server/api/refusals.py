"""Errors in words: every refusal becomes OpenAI's error body with the status its class owns, or,
where a browser asks for a page, a page.

The only place of the HTTP door that knows error classes. Refuses to echo what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from rootstock_registry.errors import RegistryError
from rootstock_wire.openai import ErrorBody, ErrorDetail
from starlette.exceptions import HTTPException
from starlette.types import Scope

from rootstock_server.api.pages import document
from rootstock_server.api.registry_calls import translate
from rootstock_server.errors import BadRequest, CorruptAdapter, RootstockError, ServerFault

log = structlog.get_logger()

# Pydantic puts the name of a union's branch into a location, right behind the field's name.
BRANCHES = frozenset({"text", "texts", "ids", "id_lists", "none", "parts", "named", "as_object"})
# A task's body is a union itself: the first part is a branch, and the field comes second.
DIALECTS = frozenset({"messages", "prompt", "input"})
# Where FastAPI found a field: its first word.
PLACES = (("body",), ("query",), ("path",))
MAX_FIELD_CHARS = 128


def install(app: FastAPI) -> None:
    app.add_exception_handler(RootstockError, _refused)
    app.add_exception_handler(RegistryError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(Exception, _fault)


def body_of(error: RootstockError) -> dict[str, Any]:
    detail = ErrorDetail(message=error.message, type=error.type, param=error.param, code=error.code)
    return ErrorBody(error=detail).model_dump()


def response_to(scope: Scope, error: RootstockError, status: int | None = None) -> Response:
    if document.is_page(scope["method"], scope["path"]):
        return document.refusal(error, status or error.status)
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(body_of(error), status or error.status, headers)


def known(error: RootstockError | RegistryError) -> RootstockError:
    """`error` as the server's own: what the registry says anywhere has its status, too."""
    return translate(error) if isinstance(error, RegistryError) else error


def log_fault(error: RootstockError) -> None:
    """Write down what the answer does not say."""
    if isinstance(error, ServerFault):
        # Damage is in the bytes that the message names, not where our code has noticed it.
        trace = None if isinstance(error, CorruptAdapter) else error
        log.error("fault", error=type(error).__name__, message=error.message, exc_info=trace)


def explain(errors: Sequence[Any]) -> BadRequest:
    """The first fault that pydantic found, as a sentence that begins with the field's name."""
    first = errors[0]
    if first["type"] == "json_invalid":
        place = first.get("ctx", {}).get("error", "")
        return BadRequest(f"the body is not valid JSON: {place}")
    if first["type"] in ("model_attributes_type", "dict_type") and list(first["loc"]) == ["body"]:
        return BadRequest("the body must be a JSON object sent as `content-type: application/json`")
    if first["type"] == "missing" and list(first["loc"]) == ["body"]:
        return BadRequest("a JSON object is required as the body; an empty one is {}")
    param = field_of(first["loc"])
    message = {
        "extra_forbidden": "is not a field of this request",
        "missing": "is required",
    }.get(first["type"], first["msg"])
    return BadRequest(f"{param}: {message}" if param else message, param=param or None)


def field_of(location: Sequence[str | int]) -> str:
    """`("body", "messages", 0, "content", "text")` → `messages[0].content`."""
    parts = list(location[1:] if location[:1] in PLACES else location)
    if len(parts) > 1 and parts[0] in DIALECTS and isinstance(parts[1], str):
        parts = parts if parts[1] in BRANCHES else parts[1:]
    path = ""
    for before, part in zip([None, *parts], parts, strict=False):
        if isinstance(part, int):
            path += f"[{part}]"
        elif before == "method" and isinstance(part, str):
            continue  # the branch again: which method it is
        elif not (part in BRANCHES and isinstance(before, str)):
            path += f".{part}" if path else str(part)
    return path[:MAX_FIELD_CHARS]


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, (RootstockError, RegistryError))
    refusal = known(error)
    log_fault(refusal)
    return response_to(request.scope, refusal)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return response_to(request.scope, explain(error.errors()))


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {
        404: f"no such route: {request.method} {request.url.path[:MAX_FIELD_CHARS]}",
        405: f"{request.method} is not allowed on this route",
    }.get(error.status_code, "the body could not be read as JSON")
    answer = response_to(request.scope, BadRequest(message), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _fault(request: Request, error: Exception) -> Response:
    log.error("fault", error=type(error).__name__, exc_info=error)
    fault = ServerFault("the server failed while answering; its log says why")
    return response_to(request.scope, fault)


def sse(data: str) -> bytes:
    """One server-sent event."""
    return f"data: {data}\n\n".encode()


def sse_error(error: RootstockError) -> bytes:
    """A stream's last event where it fails: the status has been sent, the body says it."""
    log_fault(error)
    return sse(json.dumps(body_of(error)))
