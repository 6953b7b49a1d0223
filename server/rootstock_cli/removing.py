"""The commands that take things away: yank, delete, and the collection of what nobody uses.

Refuses to know how stored bytes are found to be unused.
"""

from __future__ import annotations

import dataclasses
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


def gc(
    home: Home,
    grace: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="How long nothing may have named a blob.",
            show_default="86400, a day",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is garbage; delete nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Delete stored bytes that nothing names any more: first marked, a grace period later gone."""
    from rootstock_registry.collect import DEFAULT_GRACE_S

    grace_s = DEFAULT_GRACE_S if grace is None else grace
    found = open_registry(home).gc(grace_s=grace_s, dry_run=dry_run)
    if as_json:
        print_json(dataclasses.asdict(found))
        return
    done = (
        "nothing was touched"
        if dry_run
        else f"{found.marked} newly marked, {found.swept} deleted ({found.swept_size} bytes)"
    )
    Console(soft_wrap=True, highlight=False).print(
        f"{found.blobs} blobs, {found.size} bytes; garbage: {found.garbage}, "
        f"{found.garbage_size} bytes; {done}"
    )
