"""The commands about who may use what: tenants, keys and routes.

Refuses to know what the server does with them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL, Home, Json, Tenant
from rootstock_cli.registry import check_tenant, open_registry, print_json

if TYPE_CHECKING:
    from rootstock_registry import ApiKey

tenant = typer.Typer(help="Tenants own adapters, keys and routes.", no_args_is_help=True)
key = typer.Typer(help="API keys, with which tenants call the server.", no_args_is_help=True)
route = typer.Typer(help="Routes lead from a task to weighted versions.", no_args_is_help=True)


Whose = Annotated[str, typer.Option("--tenant", help="Whose key.")]


@tenant.callback()
@route.callback()
def _group() -> None:
    """Keeps `create` and `set` a word of their own: a group of one command would swallow it."""


@tenant.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new tenant's name.")],
    home: Home,
) -> None:
    """Create a tenant."""
    open_registry(home).create_tenant(name)
    Console(soft_wrap=True).print(
        f"tenant {name} exists now; give it a key with: "
        f"rootstock key create --tenant {name} --role caller"
    )


@key.command("create")
def create_key(
    tenant: Whose,
    home: Home,
    role: Annotated[
        Literal["admin", "publisher", "caller"], typer.Option(help="What it may do.")
    ] = "caller",
    expires: Annotated[
        datetime | None,
        typer.Option(
            metavar="30d|12h|DATE",
            parser=lambda text: _moment(text),
            help="When it ends: after days or hours, or at a date, as in 2030-12-31 (UTC).",
            show_default="never",
        ),
    ] = None,
) -> None:
    """Create an API key and print its secret: here, once, and never again."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    key_id, secret = registry.create_key(tenant, role, expires_at=expires)
    # The secret alone on stdout, so that a script can keep it: KEY=$(rootstock key create …)
    typer.echo(f"{key_id}: {role} of {tenant}. The secret is not shown again:", err=True)
    typer.echo(secret)


@key.command("list")
def list_keys(tenant: Whose, home: Home, as_json: Json = False) -> None:
    """List a tenant's keys, oldest first, those that have ended, too; no secret is known."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    found = registry.keys(tenant)
    if as_json:
        print_json({"tenant": tenant, "keys": [_key_facts(each) for each in found]})
        return
    table = Table(box=None)
    for head in ("key", "role", "created", "expires", "state"):
        table.add_column(head, no_wrap=True)
    for each in found:
        expires = "never" if each.expires_at is None else f"{each.expires_at:%Y-%m-%d %H:%M}"
        created = f"{each.created_at:%Y-%m-%d %H:%M}"
        table.add_row(each.id, each.role, created, expires, each.state)
    Console().print(table)


@key.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `key list` shows it.")],
    tenant: Whose,
    home: Home,
) -> None:
    """Take a key back, for good: no server lets it in again."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    revoked = registry.revoke_key(tenant, key_id)
    since = f"{revoked.revoked_at:%Y-%m-%d %H:%M:%S} UTC"
    Console(soft_wrap=True).print(f"{revoked.id} of {tenant} is revoked since {since}")


@route.command("set")
def set_route(
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's name.")],
    targets: Annotated[
        list[str],
        typer.Argument(metavar="NAME[:VERSION|@ALIAS]=WEIGHT…", help="Versions and their shares."),
    ],
    home: Home,
    fallback: Annotated[
        str | None, typer.Option(metavar="NAME", help="Answers where no target can.")
    ] = None,
    tenant: Tenant = LOCAL,
) -> None:
    """Let a task mean weighted versions; the request's `user` always gets the same one."""
    weights = dict(_target(text) for text in targets)
    if len(weights) != len(targets):
        raise Refused("targets: one version is named twice; give it one weight")
    made = open_registry(home).set_route(tenant, task, weights, fallback)
    total = sum(made.targets.values())
    shares = ", ".join(f"{ref} {weight / total:.0%}" for ref, weight in made.targets.items())
    otherwise = f", otherwise {fallback}" if fallback else ""
    Console(soft_wrap=True).print(f"{tenant}/{task}: {shares}{otherwise}")


def _moment(text: str) -> datetime:
    now, after = datetime.now(UTC), re.fullmatch(r"([1-9][0-9]{0,4})([dh])", text)
    if after:
        count = int(after[1])
        return now + (timedelta(days=count) if after[2] == "d" else timedelta(hours=count))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is neither 30d, 12h nor a date as in 2030-12-31"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise typer.BadParameter(f"{text!r} has passed")
    return moment


def _key_facts(key: ApiKey) -> dict[str, Any]:
    ends = {"expires_at": key.expires_at, "revoked_at": key.revoked_at}
    return {
        "id": key.id,
        "role": key.role,
        "created_at": key.created_at.isoformat(),
        **{name: moment and moment.isoformat() for name, moment in ends.items()},
        "state": key.state,
    }


def _target(text: str) -> tuple[str, int]:
    ref, separator, weight = text.rpartition("=")
    if not separator or not weight.isdecimal():
        raise typer.BadParameter(
            f"{text!r} is not NAME=WEIGHT with a whole number, as in triage@prod=90"
        )
    return ref, int(weight)
