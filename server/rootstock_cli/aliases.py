"""The commands that decide what a name means: promote, roll back, and the aliases themselves.

Refuses to know which requests a moved alias changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rootstock_cli.failures import Refused
from rootstock_cli.listing import Limit, say_more
from rootstock_cli.options import LOCAL, Home, Json, Require, Tenant
from rootstock_cli.registry import check_tenant, open_registry, print_json, say_version

Name = Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="As in prod, canary.")]
PublicKeyFile = Annotated[
    Path | None,
    typer.Option(metavar="PUB.pem", help="Whose signature `--require signature` means."),
]

alias = typer.Typer(help="Aliases: movable names for versions.", no_args_is_help=True)


def promote(
    ref: Annotated[str, typer.Argument(metavar="NAME:VERSION", help="The version.")],
    to: Annotated[str, typer.Option(metavar="ALIAS", help="The alias to move to it.")],
    home: Home,
    require: Require = None,
    public_key: PublicKeyFile = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Move an alias to a version; answers that are running keep the version they began with."""
    from rootstock_registry import gates
    from rootstock_registry.signing import PublicKey

    demanded = gates.parse(require or [])
    if demanded.signed != (public_key is not None):
        raise Refused("--require signature and --public-key PUB.pem belong together: give both")
    key = PublicKey(public_key.expanduser()) if public_key else None
    registry = open_registry(home)
    say_version(registry.promote(tenant, ref, to, gates=demanded, key=key), as_json)


def rollback(
    ref: Annotated[
        str, typer.Argument(metavar="NAME[@ALIAS]", help="The alias to move; bare: @prod.")
    ],
    home: Home,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Let an alias mean again what it meant before, as far back as that can be served."""
    from rootstock_registry.names import parse_ref

    parsed = parse_ref(ref)
    if parsed is None or parsed.alias is None or parsed.tenant not in (None, tenant):
        raise Refused(f"{ref[:80]!r} is not NAME or NAME@ALIAS: an alias is what goes back")
    say_version(open_registry(home).rollback(tenant, parsed.name, parsed.alias), as_json)


@alias.command("list")
def list_aliases(
    home: Home,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Only this adapter's.")
    ] = None,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(metavar="NAME@ALIAS", help="Only those behind this one.")
    ] = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """List what aliases mean now."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    page = registry.alias_page(tenant, name, after=after, limit=limit)
    if as_json:
        facts = [
            {"adapter": each.adapter, "alias": each.alias, "version": each.number}
            for each in page.data
        ]
        print_json({"tenant": tenant, "aliases": facts, "has_more": page.has_more})
        return
    table = Table("alias", "version", box=None, pad_edge=False)
    for each in page.data:
        table.add_row(each.ref, f"{each.adapter}:{each.number}")
    console = Console()
    console.print(table if page.data else "no aliases; set one with: rootstock alias set")
    if page.has_more:
        of_one = f" {name}" if name else ""
        say_more(console, f"rootstock alias list{of_one} --after {page.data[-1].ref}", tenant)


@alias.command("set")
def set_alias(
    name: Name,
    alias: Alias,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Its number.")],
    home: Home,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Let an alias mean a version; as `rootstock promote` without gates."""
    say_version(open_registry(home).promote(tenant, f"{name}:{version}", alias), as_json)


@alias.command("delete")
def delete_alias(
    name: Name,
    alias: Alias,
    home: Home,
    force: Annotated[
        bool, typer.Option("--force", help="Also where a route goes through it.")
    ] = False,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Take an alias away; the version stays."""
    open_registry(home).delete_alias(tenant, name, alias, force=force)
    if as_json:
        print_json({"adapter": name, "alias": alias, "deleted": True})
        return
    Console(soft_wrap=True).print(f"{tenant}/{name}@{alias} means nothing any more", markup=False)


@alias.command("history")
def alias_history(
    name: Name, alias: Alias, home: Home, tenant: Tenant = LOCAL, as_json: Json = False
) -> None:
    """List all that an alias has meant, newest first."""
    moves = open_registry(home).alias_history(tenant, name, alias)
    if not moves:
        raise Refused(f"{name[:80]!r} of {tenant} has never had an alias {alias[:80]!r}")
    if as_json:
        facts = [{"version": m.number, "moved_at": m.moved_at.isoformat()} for m in moves]
        print_json({"adapter": name, "alias": alias, "moves": facts})
        return
    console = Console(soft_wrap=True, highlight=False)
    for move in moves:
        means = f"{name}:{move.number}" if move.number else "taken away"
        console.print(f"{move.moved_at.isoformat(timespec='seconds')}  {means}", markup=False)
