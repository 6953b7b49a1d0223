"""Uploads as multipart forms: spooled to disk while they come, and gone when their route is done.

Refuses to know what is in the files.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from rootstock_server.errors import BadRequest

# Form fields beside the files are names; a longer one is a mistake.
MAX_FIELD_BYTES = 4096


@asynccontextmanager
async def form_of(
    request: Request, files: Collection[str], texts: Collection[str]
) -> AsyncIterator[FormData]:
    """The form of `request`, which may have the fields `files` and `texts`, each once.

    Raises BadRequest where it is no form, or has too many parts; naming the field that is not one
    of them, or is there twice.
    """
    try:
        # One more of each, so that what is too many is named.
        form = await request.form(
            max_files=len(files) + 1, max_fields=len(texts) + 1, max_part_size=MAX_FIELD_BYTES
        )
    except HTTPException as error:
        first = next(iter(files))
        raise BadRequest(f"{first}: no multipart form: {error.detail}", param=first) from None
    except ClientDisconnect:
        raise BadRequest("the caller has left before the upload was whole") from None
    try:
        _check(form, {*files, *texts})
        yield form
    finally:
        await form.close()


def file_of(form: FormData, name: str) -> UploadFile:
    """Raises BadRequest where the field is not there, or not a file."""
    file = form.get(name)
    if not isinstance(file, UploadFile):
        raise BadRequest(f"{name}: is required, as a file of a multipart form", param=name)
    return file


def upload_schema(files: Collection[str], texts: dict[str, Any], required: Any) -> dict[str, Any]:
    """How OpenAPI says such a form."""
    binary = {"type": "string", "format": "binary"}
    schema = {
        "type": "object",
        "required": list(required),
        "properties": {**dict.fromkeys(files, binary), **texts},
    }
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def _check(form: FormData, known: Collection[str]) -> None:
    seen = set()
    for name, _ in form.multi_items():
        if name not in known:
            shown = name[:64]
            raise BadRequest(f"{shown}: is not supported here; leave it out", param=shown)
        if name in seen:
            raise BadRequest(f"{name}: is there twice", param=name)
        seen.add(name)
