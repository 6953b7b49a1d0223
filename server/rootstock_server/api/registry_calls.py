"""The registry asked on a thread, with its errors translated.

The one place of the HTTP door that knows the registry's error tree. Refuses to know the routes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from rootstock_registry import errors as theirs

from rootstock_server import errors

P = ParamSpec("P")
R = TypeVar("R")

# What the registry says → what the caller is told, with the same words.
TRANSLATED: dict[type[theirs.RegistryError], type[errors.RootstockError]] = {
    theirs.NotFound: errors.Unknown,
    theirs.InvalidName: errors.BadRequest,
    theirs.InvalidArtifact: errors.BadRequest,
    theirs.WrongBase: errors.AdapterMismatch,
    theirs.Conflict: errors.Conflict,
    theirs.GateNotMet: errors.GateNotMet,
    theirs.Untrusted: errors.Untrusted,
    theirs.Unavailable: errors.Overloaded,
    theirs.CorruptBlob: errors.CorruptAdapter,
}


async def ask(work: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """What `work` of the registry returns. Raises the server's error for each of the registry's."""
    try:
        return await asyncio.to_thread(work, *args, **kwargs)
    except theirs.RegistryError as error:
        known = (TRANSLATED[cls] for cls in type(error).__mro__ if cls in TRANSLATED)
        raise next(known, errors.ServerFault)(error.message) from error
