"""The export command: versions become a package for a device, checked against a real server.

Refuses to know targets; brings together the exporter and the server whose answers it must match.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from rootstock_cli import shipped
from rootstock_cli.failures import Refused
from rootstock_cli.options import BASE_HELP, LOCAL, Home, Tenant
from rootstock_cli.private_server import private_server
from rootstock_cli.registry import open_registry

if TYPE_CHECKING:
    from rootstock_client import Client
    from rootstock_export import ParityReport
    from rootstock_registry import Registry, Version

TEXTS_PER_REQUEST = 16

Answers = Callable[[list[str]], list[dict[str, dict[str, float]]]]


def export(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME…", help="Heads on one encoder; for peft, one version."),
    ],
    target: Annotated[Literal["onnx", "peft"], typer.Option(help="The package's format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new or an empty folder.")],
    home: Home,
    base: Annotated[
        str | None, typer.Option(help=f"{BASE_HELP} Default: the shipped base of that name.")
    ] = None,
    tenant: Tenant = LOCAL,
) -> None:
    """Write a package that classifies on a device without PyTorch, or a folder for PEFT."""
    registry = open_registry(home)
    versions = [registry.resolve(tenant, name) for name in names]
    if target == "peft":
        with _damage_marked(registry, versions):
            _write_peft_folder(registry, versions, out)
        return
    source = shipped.find_base(base) if base else _shipped_base(versions[0])
    # Float32 is what a package computes in.
    options, key = ["--no-sidecar", "--dtype", "float32"], None
    if tenant == LOCAL:
        options.append("--no-auth")
    else:
        # Only with a key is a caller anybody else than the tenant local.
        _, key = registry.create_key(tenant, "caller")
    with private_server(home, [source], options) as server:
        from rootstock_client import Client

        with Client(server.url, key) as client:
            report = write_package(registry, versions, source, out, answers_of(client, versions))
    for version in versions:
        registry.evidence.exported(tenant, version.ref, target, report.as_json())
    _say(Console(soft_wrap=True), report, out)


def _write_peft_folder(registry: Registry, versions: Sequence[Version], out: Path) -> None:
    from rootstock_registry import peft_writer

    if len(versions) != 1:
        raise Refused("a PEFT folder holds one version: name one")
    [version] = versions
    card = registry.base(version.base_fingerprint)
    peft_writer.write(version.manifest, registry.blobs, card, out)
    registry.evidence.exported(version.tenant, version.ref, "peft", {})
    Console(soft_wrap=True).print(
        f"[bold]{out}[/bold]: {version.ref} as PEFT saves it, for PeftModel.from_pretrained"
    )


@contextmanager
def _damage_marked(registry: Registry, versions: Sequence[Version]) -> Iterator[None]:
    """Where stored bytes turn out to be damaged, their version is quarantined for everybody."""
    from rootstock_registry.errors import CorruptBlob

    try:
        yield
    except CorruptBlob:
        for version in versions:
            registry.inspect(version.tenant, version.ref)
        raise


def write_package(
    registry: Registry, versions: Sequence[Version], base: shipped.Source, out: Path, ask: Answers
) -> ParityReport:
    """Export `versions` to the folder `out`, saying on a terminal what is being done."""
    from rootstock_export import export as write

    marked = _damage_marked(registry, versions)
    with Console(stderr=True).status("exporting") as status, marked:
        return write(versions, base.path, registry, out, ask, progress=status.update)


def answers_of(client: Client, versions: Sequence[Version]) -> Answers:
    """Asks the server behind `client` for these very versions: head → label → probability."""
    from rootstock_wire.native import HeadResult

    models = [version.ref for version in versions]
    names = {version.ref: version.name for version in versions}

    def ask(texts: list[str]) -> list[dict[str, dict[str, float]]]:
        found = []
        for start in range(0, len(texts), TEXTS_PER_REQUEST):
            answer = client.classify(texts[start : start + TEXTS_PER_REQUEST], models)
            found += [
                {names[r.model]: r.probs for r in row.results if isinstance(r, HeadResult)}
                for row in answer.data
            ]
        return found

    return ask


def _shipped_base(version: Version) -> shipped.Source:
    name = version.manifest.base.name
    if name not in shipped.SHIPPED:
        raise Refused(f"say with --base PATH where the base {name} of {version.ref} is")
    return shipped.find_base(name)


def _say(console: Console, report: ParityReport, out: Path) -> None:
    console.print(
        f"[bold]{out}[/bold]: on {report.texts} texts within {report.max_difference:.1e} of the "
        f"server's probabilities ({report.tolerance:.0e} allowed)"
    )
    console.print(f"try it: rootstock-edge classify {out} 'Thank you, it works.'", markup=False)
