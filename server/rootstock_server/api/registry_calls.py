"""The registry's errors as the server's own; `refusals.py` translates what nothing else has.

The one place of the HTTP door that knows the registry's error tree. Refuses to know the routes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from rootstock_registry import errors as theirs

from rootstock_server import errors

log = structlog.get_logger()

# What the registry says → what the caller is told, with the same words.
TRANSLATED: dict[type[theirs.RegistryError], type[errors.RootstockError]] = {
    theirs.NotFound: errors.Unknown,
    theirs.InvalidName: errors.BadRequest,
    theirs.InvalidArtifact: errors.BadRequest,
    theirs.WrongBase: errors.AdapterMismatch,
    theirs.Conflict: errors.Conflict,
    theirs.GateNotMet: errors.GateNotMet,
    theirs.Untrusted: errors.Untrusted,
    theirs.CorruptBlob: errors.CorruptAdapter,
}

_AWAY = (
    "the registry cannot be reached or written now; try again in a moment: "
    "what was asked may be asked again safely"
)
_FULL = "no room is left where the registry keeps its versions; nothing was stored"


@contextmanager
def openai_words(param: str | None = None) -> Iterator[None]:
    """Around calls about files and jobs; `param` is the field that named what may be missing.

    A conflict is a 400 here, as OpenAI answers it: its clients send a request with a 409 again.
    """
    try:
        yield
    except theirs.Conflict as error:
        raise errors.BadRequest(error.message, param=param) from None
    except theirs.RegistryError as error:
        raise translate(error, param) from error


def translate(error: theirs.RegistryError, param: str | None = None) -> errors.RootstockError:
    """The server's error for the registry's, with its words; where those name a machine or a
    folder, which is no caller's business, they go to the log instead."""
    if isinstance(error, theirs.Unavailable):
        log.warning("the registry is unavailable", why=error.message)
        return errors.Overloaded(
            _FULL if isinstance(error, theirs.StorageFull) else _AWAY, param=param
        )
    known = (TRANSLATED[cls] for cls in type(error).__mro__ if cls in TRANSLATED)
    return next(known, errors.ServerFault)(error.message, param=param)
