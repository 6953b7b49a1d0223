"""The commands about who may use what: tenants, keys and routes.

Refuses to know what the server does with them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL, Home, Tenant
from rootstock_cli.registry import check_tenant, open_registry

tenant = typer.Typer(help="Tenants own adapters, keys and routes.", no_args_is_help=True)
key = typer.Typer(help="API keys, with which tenants call the server.", no_args_is_help=True)
route = typer.Typer(help="Routes lead from a task to weighted versions.", no_args_is_help=True)


@tenant.callback()
@key.callback()
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
    tenant: Annotated[str, typer.Option(help="Whose key.")],
    home: Home,
    role: Annotated[
        Literal["admin", "publisher", "caller"], typer.Option(help="What it may do.")
    ] = "caller",
) -> None:
    """Create an API key and print its secret: here, once, and never again."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    key_id, secret = registry.create_key(tenant, role)
    # The secret alone on stdout, so that a script can keep it: KEY=$(rootstock key create …)
    typer.echo(f"{key_id}: {role} of {tenant}. The secret is not shown again:", err=True)
    typer.echo(secret)


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


def _target(text: str) -> tuple[str, int]:
    ref, separator, weight = text.rpartition("=")
    if not separator or not weight.isdecimal():
        raise typer.BadParameter(
            f"{text!r} is not NAME=WEIGHT with a whole number, as in triage@prod=90"
        )
    return ref, int(weight)
