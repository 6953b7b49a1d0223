"""The commands that prove things: keys for signing, signatures, and the audit log.

Refuses to know how signatures and chains are made.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rootstock_adapters.errors import printable

from rootstock_cli.options import LOCAL, Home, Json, Tenant
from rootstock_cli.registry import open_registry, print_json

if TYPE_CHECKING:
    from rootstock_registry.audit import AuditRow

Ref = Annotated[
    str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="The version; bare: its @prod.")
]

audit = typer.Typer(
    help="List the audit log: every change, by whom, newest first.", invoke_without_command=True
)


def generate_key_pair(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the two files go.")] = Path("."),
) -> None:
    """Make a key for signing versions: key.pem to keep secret, pub.pem to hand out."""
    from rootstock_registry.signing import PublicKey, new_key_pair

    private, public = new_key_pair(out.expanduser())
    console = Console(soft_wrap=True)
    console.print(f"{private} signs: keep it secret. {public} verifies: hand it out.")
    console.print(f"key: {PublicKey(public).id}", highlight=False)


def sign(
    ref: Ref,
    key: Annotated[Path, typer.Option(metavar="KEY.pem", help="The signer's private key.")],
    home: Home,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Sign a version: its manifest and, through the digests in it, every byte."""
    made = open_registry(home).evidence.sign(tenant, ref, key.expanduser())
    if as_json:
        print_json({"digest": made.digest, "key": made.key_id, "bundle": made.bundle})
        return
    Console(soft_wrap=True).print(f"{ref} ({made.digest}) is signed by key {made.key_id}")


def verify(
    ref: Ref,
    home: Home,
    public_key: Annotated[
        Path | None, typer.Option(metavar="PUB.pem", help="The signer's public key.")
    ] = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Read all stored bytes of a version again and, with a key, prove who has signed them.

    Damaged bytes quarantine it: no server answers with it, until they are whole and verified again.
    """
    from rootstock_registry.signing import PublicKey

    registry = open_registry(home)
    key = PublicKey(public_key.expanduser()) if public_key else None
    found = registry.inspect(tenant, ref)
    version = registry.resolve(tenant, ref)  # raises in words where it is quarantined
    made = registry.evidence.verify(version.digest, key) if key else None
    if as_json:
        facts = {"ref": version.ref, "digest": version.digest, "released": found.released > 0}
        signed = {"key": made.key_id, "signed_at": _time(made.created_at)} if made else {}
        print_json(facts | signed)
        return
    told = f"{version.ref} ({version.digest}) "
    if made is None:
        told += "has all the bytes that were published"
    else:
        told += f"is signed by key {made.key_id}, {_time(made.created_at)}; "
        told += "its bytes are those that were signed"
    console = Console(soft_wrap=True)
    console.print(told)
    if found.released:
        console.print("it is no longer quarantined")


@audit.callback()
def list_audit(
    context: typer.Context,
    home: Home,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    object_: Annotated[
        str | None,
        typer.Option("--object", metavar="NAME", help="An adapter, NAME:VERSION, NAME@ALIAS, …"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 50,
    after: Annotated[
        int | None, typer.Option(metavar="ROW", help="Only rows older than this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the audit log: every change, by whom, newest first."""
    if context.invoked_subcommand is not None:
        return
    log = open_registry(home).evidence
    found = log.audit(tenant=tenant, object=object_, after=after, limit=limit + 1)
    rows, more = found[:limit], len(found) > limit
    if as_json:
        print_json({"rows": [_row_facts(row) for row in rows], "has_more": more})
        return
    console = Console(soft_wrap=True)
    for row in rows:
        console.print(_line(row), markup=False, highlight=False)
    if more:
        asked = (("--tenant", tenant), ("--object", object_), ("--after", str(rows[-1].seq)))
        words = " ".join(f"{name} {value}" for name, value in asked if value)
        console.print(f"older ones: rootstock audit {words}", markup=False, highlight=False)
    if not rows:
        console.print("no such row")


@audit.command("verify")
def verify_audit(
    home: Home,
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A head hash kept from earlier: is it still there?"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the audit log's chain and name the first row that does not fit."""
    found = open_registry(home).evidence.verify_audit(head)
    if as_json:
        print_json({"rows": found.rows, "head": found.hash})
        return
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"head: {found.hash}, {found.rows} rows fit together")
    if head is None:
        console.print(
            "Keep the head somewhere else: rows cut off at the end are seen only with it "
            "(rootstock audit verify --head HASH)."
        )


def _row_facts(row: AuditRow) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "at": _when(row.at),
        "tenant": row.tenant,
        "actor": row.actor,
        "action": row.action,
        "object": row.object,
        "detail": dict(row.detail),
        "hash": row.hash,
    }


def _line(row: AuditRow) -> str:
    owner = f"{row.tenant}/" if row.tenant else ""
    detail = " ".join(f"{key}={value}" for key, value in row.detail.items())
    return printable(
        f"{row.seq:>6}  {_when(row.at)}  {row.actor}  {row.action} {owner}{row.object}  {detail}"
    )


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")


def _when(seconds: float) -> str:
    try:
        return _time(datetime.fromtimestamp(seconds, UTC))
    except (TypeError, ValueError, OverflowError):  # by another hand: verify names the row
        return f"unreadable ({seconds})"
