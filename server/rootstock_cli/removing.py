"""The commands that take things away: yank, delete, and the collection of what nobody uses.

Refuses to know how stored bytes are found to be unused.
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL, Home, Json, Tenant
from rootstock_cli.registry import open_registry, print_json, say_version


def yank(
    ref: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version.")],
    home: Home,
    reason: Annotated[str, typer.Option(help="Why, for those who come across it.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take the yank back.")] = False,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Say that nobody should begin to use a version; who uses it already keeps it."""
    if undo and reason:
        raise Refused("--undo takes a yank back and needs no --reason")
    registry = open_registry(home)
    version = registry.unyank(tenant, ref) if undo else registry.yank(tenant, ref, reason)
    say_version(version, as_json)


def delete(
    ref: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION]", help="A version; bare: all of them.")
    ],
    home: Home,
    force: Annotated[
        bool, typer.Option("--force", help="Also where an alias or a route leads to it.")
    ] = False,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Delete a version, or an adapter with all of them; gc frees their bytes later."""
    registry = open_registry(home)
    if ":" in ref:
        registry.delete_version(tenant, ref, force=force)
    else:
        registry.delete_adapter(tenant, ref, force=force)
    if as_json:
        print_json({"ref": ref, "deleted": True})
        return
    Console(soft_wrap=True).print(f"{tenant}/{ref} is deleted", markup=False, highlight=False)
