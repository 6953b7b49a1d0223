"""The commands that look: the bases and adapters, an adapter's versions, one version in full.

Refuses to change anything.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rootstock_cli.options import LOCAL, Home, Json, Tenant
from rootstock_cli.registry import (
    SHOWN_DIGEST,
    check_tenant,
    open_registry,
    print_json,
    version_facts,
)

if TYPE_CHECKING:
    from rootstock_adapters.base_card import BaseCard
    from rootstock_registry import AdapterSummary, Registry, Version
    from rootstock_registry.evaluations import Evaluation
    from rootstock_registry.manifest import Part
    from rootstock_registry.provenance import Dataset, Export
    from rootstock_registry.records import VersionSummary
    from rootstock_registry.signing import Signature

SIBLINGS = 10  # how many versions of the same adapter `show` names
Lines = list[tuple[str, str]]
Limit = Annotated[int, typer.Option(min=1, max=100, help="Lines at most.")]


def list_(
    home: Home,
    limit: Limit = 100,
    after: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only adapters behind this name.")
    ] = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """List the bases and a tenant's adapters."""
    registry = open_registry(home)
    check_tenant(registry, tenant)
    bases = registry.bases()
    page = registry.adapter_page(tenant, after=after, limit=limit)
    if as_json:
        print_json(
            {
                "tenant": tenant,
                "bases": [_base_facts(card) for card in bases],
                "adapters": [_adapter_facts(adapter) for adapter in page.data],
                "has_more": page.has_more,
            }
        )
        return
    console = Console()
    if not bases:
        console.print("The registry is empty. Begin with: rootstock serve --base demo --no-auth")
        return
    console.print(_base_table(bases), _adapter_table(page.data, tenant))
    if page.has_more:
        say_more(console, f"rootstock list --after {page.data[-1].name}", tenant)


def versions(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The adapter.")],
    home: Home,
    limit: Limit = 20,
    after: Annotated[
        int | None, typer.Option(metavar="NUMBER", min=1, help="Only versions below this one.")
    ] = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """List an adapter's versions, newest first."""
    registry = open_registry(home)
    registry.adapter(tenant, name)  # raises where there is none
    page = registry.version_page(tenant, name, after=after, limit=limit)
    if as_json:
        facts = [_summary_facts(version) for version in page.data]
        print_json({"adapter": name, "versions": facts, "has_more": page.has_more})
        return
    table = Table("version", "kinds", "base", "bytes", "digest", "", box=None, pad_edge=False)
    for each in page.data:
        table.add_row(
            str(each.number), ", ".join(each.kinds), each.base, str(each.size),
            each.digest[:SHOWN_DIGEST], _marks(each),
        )  # fmt: skip
    console = Console()
    console.print(table)
    if page.has_more:
        say_more(console, f"rootstock versions {name} --after {page.data[-1].number}", tenant)


def show(
    ref: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION|@ALIAS]", help="Default: @prod, or the latest.")
    ],
    home: Home,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Show a version: its parts, where it came from, how good it is, who signed it."""
    registry = open_registry(home)
    version = _shown_version(registry, tenant, ref)
    proof = registry.evidence
    later = proof.evaluations(version.tenant, version.digest)
    signed = proof.signatures(version.digest)
    dataset = proof.dataset(version.tenant, version.manifest.lineage.dataset_digest)
    exported = proof.exports(version.tenant, version.digest)
    siblings = registry.version_page(version.tenant, version.name, limit=SIBLINGS).data
    if as_json:
        print_json(
            version_facts(version)
            | {
                "evaluations": [_evaluation_facts(each) for each in later],
                "signed_by": [each.key_id for each in signed],
                "dataset": dataclasses.asdict(dataset) if dataset else None,
                "exports": [each.target for each in exported],
                "versions": [_summary_facts(each) for each in siblings],
            }
        )
        return
    console = Console(markup=False, highlight=False, soft_wrap=True)
    lines = [*_manifest_lines(version), *_later_lines(later, signed)]
    lines += [*_provenance_lines(dataset, exported), *_sibling_lines(siblings)]
    for what, value in lines:
        console.print(f"{what:9} {value}")


def say_more(console: Console, command: str, tenant: str) -> None:
    whose = "" if tenant == LOCAL else f" --tenant {tenant}"
    console.print(f"There are more: {command}{whose}", markup=False, highlight=False)


def _shown_version(registry: Registry, tenant: str, ref: str) -> Version:
    from rootstock_registry.errors import NotFound

    try:
        return registry.look_at(tenant, ref)
    except NotFound:
        if set(ref) & set(":@/"):
            raise
        newest = registry.version_page(tenant, ref, limit=1).data
        if not newest:
            raise
        return registry.look_at(tenant, newest[0].ref)


def _base_facts(card: BaseCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "fingerprint": card.fingerprint,
        "task": card.task,
        "model_type": card.model_type,
    }


def _adapter_facts(adapter: AdapterSummary) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "base": adapter.base,
        "kinds": list(adapter.kinds),
        "latest": adapter.latest,
        "aliases": dict(adapter.aliases),
    }


def _summary_facts(version: VersionSummary) -> dict[str, Any]:
    return {
        "number": version.number,
        "digest": version.digest,
        "base": version.base,
        "kinds": list(version.kinds),
        "size": version.size,
        "aliases": list(version.aliases),
        "created_at": version.created_at.isoformat(),
        "yanked": version.yanked_at is not None,
        "yank_reason": version.yank_reason,
        "quarantined": version.quarantined_at is not None,
        "quarantine_reason": version.quarantine_reason,
    }


def _evaluation_facts(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "dataset_digest": evaluation.dataset_digest,
        "metrics": dict(evaluation.metrics),
        "created_at": evaluation.created_at.isoformat(),
    }


def _base_table(bases: list[BaseCard]) -> Table:
    table = Table("base", "task", "architecture", "fingerprint", box=None, pad_edge=False)
    for card in bases:
        table.add_row(card.name, card.task, card.model_type, card.fingerprint[:SHOWN_DIGEST])
    return table


def _adapter_table(adapters: tuple[AdapterSummary, ...], tenant: str) -> Table | str:
    if not adapters:
        return f"\nThe tenant {tenant} has no adapters."
    table = Table("\nadapter", "\nbase", "\nkinds", "\nlatest", "\naliases", box=None)
    table.pad_edge = False
    for adapter in adapters:
        aliases = " ".join(f"@{name}={number}" for name, number in adapter.aliases.items())
        table.add_row(
            adapter.name, adapter.base, ", ".join(adapter.kinds), str(adapter.latest), aliases
        )
    return table


def _manifest_lines(version: Version) -> Lines:
    manifest = version.manifest
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    lines = [
        ("version", f"{version.tenant}/{version.ref}{aliases}"),
        ("digest", version.digest),
        ("base", f"{manifest.base.name}  {manifest.base.fingerprint}"),
    ]
    if version.yanked_at is not None:
        reason = f": {version.yank_reason}" if version.yank_reason else ""
        lines.append(("yanked", f"{version.yanked_at.isoformat(timespec='seconds')}{reason}"))
    if version.quarantined_at is not None:
        since = version.quarantined_at.isoformat(timespec="seconds")
        lines.append(("quarantine", f"{since}: {version.quarantine_reason}"))
    for part in manifest.parts:
        lines += _part_lines(part)
    lines += [
        ("lineage", f"{key}: {_short(value)}")
        for key, value in manifest.lineage.model_dump().items()
        if value not in (None, {})
    ]
    lines += [("figure", f"{name}: {value:.4g}") for name, value in manifest.evaluation.items()]
    return lines


def _part_lines(part: Part) -> Lines:
    settings = ", ".join(
        f"{key}={_short(value)}"
        for key, value in part.config.items()
        if value not in (None, [], {}, "")
    )
    lines = [("part", f"{part.kind}, {part.size} bytes: {settings}")]
    if part.tensors:
        shapes = [
            f"{name} {each.dtype}[{', '.join(map(str, each.shape))}]"
            for name, each in part.tensors.items()
        ]
        lines.append(("tensors", f"{len(shapes)}: {_short(shapes)[1:-1]}"))
    return lines


def _later_lines(later: list[Evaluation], signed: list[Signature]) -> Lines:
    lines = []
    for each in later:
        figures = ", ".join(f"{name}: {value:.4g}" for name, value in each.metrics.items())
        when = each.created_at.isoformat(timespec="seconds")
        lines.append(("measured", f"{figures} on {each.dataset_digest[:SHOWN_DIGEST]}, {when}"))
    for signature in signed:
        when = signature.created_at.isoformat(timespec="seconds")
        lines.append(("signed", f"by key {signature.key_id}, {when}"))
    return lines


def _provenance_lines(dataset: Dataset | None, exported: list[Export]) -> Lines:
    lines = []
    if dataset is not None:
        columns = f": {', '.join(dataset.columns)}" if dataset.columns else ""
        lines.append(("dataset", f"{dataset.rows} rows{columns}"))
    for each in exported:
        lines.append(
            ("exported", f"{each.target}, {each.created_at.isoformat(timespec='seconds')}")
        )
    return lines


def _sibling_lines(siblings: tuple[VersionSummary, ...]) -> Lines:
    return [
        (
            "versions",
            f"{each.number}  {each.digest[:SHOWN_DIGEST]}"
            + (f" {_marks(each)}" if _marks(each) else ""),
        )
        for each in siblings
    ]


def _marks(version: VersionSummary) -> str:
    states = (("yanked", version.yanked_at), ("quarantined", version.quarantined_at))
    marks = [*(f"@{alias}" for alias in version.aliases), *(name for name, at in states if at)]
    return " ".join(marks)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(str, value[:4]))}{', …' if len(value) > 4 else ''}]"
    if isinstance(value, dict):
        return " ".join(f"{key} {each}" for key, each in value.items())
    return str(value)
