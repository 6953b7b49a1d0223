"""How things are named: the one rule for names, and how a reference to a version is written.

Refuses to know what exists.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rootstock_registry.errors import InvalidName

DEFAULT_ALIAS = "prod"
_NAME = r"[a-z0-9][a-z0-9._-]{0,63}"
_REF = re.compile(
    rf"(?:(?P<tenant>{_NAME})/)?(?P<name>{_NAME})"
    rf"(?::(?P<number>[1-9][0-9]{{0,8}})|@(?P<alias>{_NAME}))?"
)


class Ref(NamedTuple):
    """Either `number` or `alias` is set: a bare name means the alias `prod`."""

    tenant: str | None
    name: str
    number: int | None
    alias: str | None


def parse_ref(text: str) -> Ref | None:
    """`name`, `name:3`, `name@alias`, each with an optional `tenant/`; None for anything else."""
    match = _REF.fullmatch(text)
    if match is None:
        return None
    number = int(match["number"]) if match["number"] else None
    alias = None if number else match["alias"] or DEFAULT_ALIAS
    return Ref(match["tenant"], match["name"], number, alias)


def check_name(what: str, name: str) -> str:
    """`name` itself. Raises InvalidName, saying which of the caller's fields is at fault."""
    if re.fullmatch(_NAME, name) is None:
        raise InvalidName(
            f"{what} {name[:80]!r} is not a valid name: use 1 to 64 of a-z, 0-9, '.', '_' and '-', "
            "beginning with a letter or a digit"
        )
    return name
