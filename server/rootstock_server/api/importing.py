"""A PEFT folder over HTTP: its two files and a name become a version, as by `rootstock import`.

Refuses to know what is in the files: the registry reads them, and says what is wrong.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import KeyOwner, Version
from rootstock_registry.errors import InvalidName, RegistryError, WrongBase
from rootstock_registry.fitting import fitting
from rootstock_registry.names import check_name
from rootstock_wire.registry import PEFT_FILES, AdapterVersionDetail
from starlette.datastructures import FormData

from rootstock_server.api import adapters
from rootstock_server.api.caller import caller_of
from rootstock_server.api.forms import file_of, form_of, upload_schema
from rootstock_server.api.handle import Handle
from rootstock_server.api.registry_calls import translate
from rootstock_server.errors import BadRequest

TEXTS = ("name", "base", "promote")
FORM = upload_schema(
    PEFT_FILES, {field: {"type": "string"} for field in TEXTS}, (*PEFT_FILES, "name")
)


@dataclass(frozen=True)
class Upload:
    """What was sent: files as they were spooled, by name, and the fields beside them."""

    files: dict[str, BinaryIO]
    name: str
    base: str | None
    promote: str | None


def routes(handle: Handle) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["registry"])
    # Uploads are spooled to disk as they come; one at a time is then read, checked and stored.
    one = asyncio.Lock()

    @router.post("/adapters", openapi_extra=FORM, status_code=201)
    async def import_adapter(request: Request) -> AdapterVersionDetail:
        """The same content twice is one version: the second answer is the first one's."""
        caller = caller_of(request, "publisher")
        async with form_of(request, PEFT_FILES, TEXTS) as form, one:
            made = await asyncio.to_thread(_import, handle, caller, _upload(form))
        return await adapters.detail(handle, caller, made.name, made.number)

    return router


def _upload(form: FormData) -> Upload:
    files = {name: file_of(form, name).file for name in PEFT_FILES}
    texts: dict[str, str | None] = {}
    for field, what in zip(TEXTS, ("adapter", "base", "alias"), strict=True):
        value = form.get(field)
        if value is not None and not isinstance(value, str):
            raise BadRequest(f"{field}: must be a text, not a file", param=field)
        texts[field] = value
        if value is None or field == "base":
            continue
        try:
            check_name(what, value)
        except RegistryError as error:
            raise translate(error, field) from None
    if texts["name"] is None:
        raise BadRequest("name: is required, the adapter's", param="name")
    return Upload(files, texts["name"], texts["base"], texts["promote"])


def _import(handle: Handle, caller: KeyOwner, upload: Upload) -> Version:
    with tempfile.TemporaryDirectory(prefix="rootstock-import-") as place:
        folder = Path(place)
        for name, spooled in upload.files.items():
            with (folder / name).open("xb") as copy:
                shutil.copyfileobj(spooled, copy)
        card = _base(handle, folder, upload.base)
        try:
            return handle.registry.import_peft(
                caller.tenant, upload.name, folder, card,
                base_folder=_folder_of(handle, card), promote=upload.promote,
            )  # fmt: skip
        except RegistryError as error:
            raise translate(error, _field_of(error)) from error


def _base(handle: Handle, folder: Path, name: str | None) -> BaseCard:
    if name is not None:
        try:
            return handle.registry.base(name)
        except RegistryError as error:
            raise translate(error, "base") from None
    bases = handle.registry.bases()
    if len(bases) == 1:
        return bases[0]  # importing says what is wrong, if anything is
    try:
        found = fitting(folder, bases)
    except RegistryError as error:
        raise translate(error, _field_of(error)) from error
    if len(found) != 1:
        names = ", ".join(card.name for card in found or bases)
        fits = "several" if found else "none"
        raise BadRequest(
            f"base: the files fit {fits} of the registered bases ({names}); say which one they "
            "are for" + ("" if found else ", to be told what is wrong"),
            param="base",
        )
    return found[0]


def _folder_of(handle: Handle, card: BaseCard) -> Path | None:
    """Where the base's files are, if this server serves it."""
    served = (base for base in handle.bases.values() if base.card.fingerprint == card.fingerprint)
    return next((base.path for base in served), None)


def _field_of(error: RegistryError) -> str | None:
    """What a refusal is about. Of a file, the registry says so by beginning with its name."""
    if isinstance(error, InvalidName):
        return "name"
    otherwise = "base" if isinstance(error, WrongBase) else None
    return next((name for name in PEFT_FILES if error.message.startswith(name)), otherwise)
