"""OpenAI's files: a tenant's uploads, checked for their form before they are kept.

Refuses to know what the rows mean: a job's trainer checks that.
"""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import PurePosixPath
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from rootstock_registry import KeyOwner, Registry
from rootstock_registry.records_work import StoredFile
from rootstock_wire.fine_tuning import MAX_RECORD_CHARS, FileDeleted, FileObject
from rootstock_wire.pages import Page

from rootstock_server.api.caller import caller_of
from rootstock_server.api.forms import file_of, form_of, upload_schema
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_calls import openai_words
from rootstock_server.errors import BadRequest

PURPOSE = "fine-tune"
SUFFIXES = (".jsonl", ".csv", ".parquet")
PARQUET = b"PAR1"
MAX_FILES_PAGE = 10_000
MAX_NAMED_LINES = 20
FIELDS = ("file",), ("purpose",)
UPLOAD_FORM = upload_schema(
    ("file",), {"purpose": {"type": "string", "enum": [PURPOSE]}}, ("file", "purpose")
)


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["files"])
    # Uploads are spooled to disk as they come; one at a time is then read to be checked and stored.
    one = asyncio.Lock()

    @router.post("/files", openapi_extra=UPLOAD_FORM)
    async def upload(request: Request) -> FileObject:
        caller = caller_of(request, "publisher")
        async with form_of(request, *FIELDS) as form, one:
            if form.get("purpose") != PURPOSE:
                raise BadRequest(f"purpose: must be `{PURPOSE}`", param="purpose")
            file = file_of(form, "file")
            name = PurePosixPath(file.filename or "").name
            data = await file.read()
            with openai_words("file"):
                await asyncio.to_thread(check, name, data)
                stored = await asyncio.to_thread(_add, handle, caller.tenant, name, data)
        return _object(stored)

    @router.get("/files")
    async def list_files(
        request: Request,
        purpose: Annotated[str | None, Query(max_length=64)] = None,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_FILES_PAGE)] = MAX_FILES_PAGE,
        order: Literal["asc", "desc"] = "desc",
    ) -> Page[FileObject]:
        tenant = caller_of(request, "publisher").tenant

        def read() -> list[StoredFile]:
            return handle.registry.files(
                tenant, purpose=purpose, after=after, limit=limit + 1, order=order
            )

        with openai_words("after"):
            found = await asyncio.to_thread(read)
        return Page[FileObject].of([_object(stored) for stored in found], limit)

    @router.get("/files/{file_id}")
    async def retrieve_file(file_id: str, request: Request) -> FileObject:
        return _object(await _stored(handle.registry, caller_of(request, "publisher"), file_id))

    @router.get("/files/{file_id}/content")
    async def file_content(file_id: str, request: Request) -> Response:
        stored = await _stored(handle.registry, caller_of(request, "publisher"), file_id)
        data = await asyncio.to_thread(handle.registry.blobs.get, stored.digest)
        # Anything may be in it: a browser that was led here is not to guess at what it is.
        headers = {"x-content-type-options": "nosniff"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @router.delete("/files/{file_id}")
    async def delete_file(file_id: str, request: Request) -> FileDeleted:
        """Jobs that still need the file will fail, and say so."""
        with openai_words("file_id"):
            tenant = caller_of(request, "publisher").tenant
            await asyncio.to_thread(handle.registry.delete_file, tenant, file_id)
        return FileDeleted(id=file_id)

    return router


def check(name: str, data: bytes) -> None:
    """Raises BadRequest naming what is wrong with an upload's name, size or lines."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise BadRequest(f"file: its name must end in {', '.join(SUFFIXES)}", param="file")
    if not data:
        raise BadRequest("file: it is empty", param="file")
    if suffix == ".parquet":
        if not (data.startswith(PARQUET) and data.endswith(PARQUET)):
            raise BadRequest("file: it is not a Parquet file", param="file")
        return
    faults: list[str] = []
    more = 0
    # Line by line: as one text, or as a list of its lines, a file takes many times its size.
    for number, line in enumerate(io.BytesIO(data), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadRequest(f"file: line {number} is not UTF-8", param="file") from None
        fault = _fault(text) if suffix == ".jsonl" else None
        if fault and len(faults) < MAX_NAMED_LINES:
            faults.append(f"line {number} is {fault}")
        elif fault:
            more += 1
    if faults:
        named = "; ".join(faults) + (f"; and {more} more" if more else "")
        raise BadRequest(f"file: {named}", param="file")


def _fault(line: str) -> str | None:
    """What is wrong with a line of JSON, if anything is."""
    if not line.strip():
        return None
    if len(line) > MAX_RECORD_CHARS:
        return f"over {MAX_RECORD_CHARS} characters"
    try:
        return None if isinstance(json.loads(line), dict) else "not a JSON object"
    except (ValueError, RecursionError):
        return "not valid JSON"


def _add(handle: Handle, tenant: str, name: str, data: bytes) -> StoredFile:
    room = handle.limits.max_files_bytes_per_tenant
    return handle.registry.add_file(tenant, name, PURPOSE, data, room=room)


async def _stored(registry: Registry, caller: KeyOwner, file_id: str) -> StoredFile:
    with openai_words("file_id"):
        return await asyncio.to_thread(registry.file, caller.tenant, file_id)


def _object(stored: StoredFile) -> FileObject:
    return FileObject(
        id=stored.id,
        bytes=stored.bytes,
        created_at=int(stored.created_at.timestamp()),
        filename=stored.filename,
        purpose=stored.purpose,
    )
