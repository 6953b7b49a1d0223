"""What the registry refuses about files and jobs, as the refusals of a request.

Refuses to know routes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rootstock_registry.errors import Conflict, InvalidArtifact, InvalidName, NotFound

from rootstock_server.errors import BadRequest, Unknown


@contextmanager
def in_words(param: str | None = None) -> Iterator[None]:
    """Around calls of the registry; `param` is the field that named what it may not find."""
    try:
        yield
    except NotFound as error:
        raise Unknown(error.message, param=param) from None
    except (InvalidName, InvalidArtifact, Conflict) as error:
        raise BadRequest(error.message, param=param) from None
