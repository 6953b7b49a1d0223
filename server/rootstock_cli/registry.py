"""The command that fills the registry, and what all commands that open it share.

Refuses to know how versions are stored and served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rootstock_cli import shipped
from rootstock_cli.failures import Refused
from rootstock_cli.options import BASE_HELP, LOCAL, Home, Json, Promote, Tenant, storage_given

if TYPE_CHECKING:
    from rootstock_adapters.base_card import BaseCard
    from rootstock_registry import Registry, Version

SHOWN_DIGEST = 19  # `sha256:` and twelve digits: enough to tell versions apart


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="A folder that PEFT or AdapterHub saved, or a prompt's JSON file.",
        ),
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The adapter's name.")],
    home: Home,
    base: Annotated[
        str | None,
        typer.Option(help=f"A registered base's name, or {BASE_HELP} Default: the one that fits."),
    ] = None,
    promote: Promote = None,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Store a PEFT folder, an AdapterHub folder or a prompt as a new version of an adapter."""
    from rootstock_registry import adapterhub

    registry = open_registry(home)
    card = registered_base(registry, base) if base else _fitting_base(registry, source)
    if source.is_file():
        version = registry.import_prompt(tenant, name, source, card, promote=promote)
    elif adapterhub.is_folder(source):
        version = registry.import_adapterhub(tenant, name, source, card, promote=promote)
    else:
        version = registry.import_peft(
            tenant, name, source, card, base_folder=_folder_of(base, card), promote=promote
        )
    say_version(version, as_json)


def open_registry(home: Path) -> Registry:
    from rootstock_registry import Registry, storage

    place = home.expanduser().absolute()
    storage.adopt(place, storage_given())
    return Registry(place)


def registered_base(registry: Registry, text: str) -> BaseCard:
    """The card of a registered name, or of a folder, which is registered by this."""
    from rootstock_registry.errors import NotFound

    try:
        return registry.base(text)
    except NotFound:
        return register_base(registry, shipped.find_base(text))


def register_base(registry: Registry, source: shipped.Source) -> BaseCard:
    from rootstock_adapters.base_card import BaseCard

    with Console(stderr=True).status(f"reading base {source.name}"):
        card = BaseCard.read(source.path, source.name)
        registry.add_base(card)
    return card


def check_tenant(registry: Registry, tenant: str) -> None:
    if tenant not in registry.tenants():
        raise Refused(
            f"tenant {tenant!r} does not exist; create it with: rootstock tenant create {tenant}"
        )


def version_facts(version: Version) -> dict[str, Any]:
    """A version as JSON; the words are the manifest's."""
    manifest = version.manifest.model_dump(mode="json")
    return {
        "tenant": version.tenant,
        "name": version.name,
        "number": version.number,
        "ref": version.ref,
        "digest": version.digest,
        "aliases": list(version.aliases),
        "created_at": version.created_at.isoformat(),
        "yanked": version.yanked_at is not None,
        "yank_reason": version.yank_reason,
        "quarantined": version.quarantined_at is not None,
        "quarantine_reason": version.quarantine_reason,
        **{key: manifest[key] for key in ("base", "parts", "lineage", "evaluation")},
    }


def say_version(version: Version, as_json: bool) -> None:
    """Tell that a version exists now, or what an alias means now."""
    if as_json:
        print_json(version_facts(version))
        return
    kinds = ", ".join(part.kind for part in version.manifest.parts)
    aliases = "".join(f" @{alias}" for alias in version.aliases)
    console = Console(soft_wrap=True)
    console.print(
        f"[bold]{version.tenant}/{version.ref}[/bold]{aliases}  {kinds} on "
        f"{version.manifest.base.name}  {version.digest}"
    )
    if version.yanked_at is not None:
        reason = f" ({version.yank_reason})" if version.yank_reason else ""
        console.print(f"it is yanked{reason}: no alias can be moved to it", markup=False)


def print_json(facts: Any) -> None:
    print(json.dumps(facts, indent=2, ensure_ascii=False))


def _fitting_base(registry: Registry, folder: Path) -> BaseCard:
    """The one registered base, or the one whose modules and sizes the folder's tensors have."""
    from rootstock_registry.fitting import fitting

    bases = registry.bases()
    if not bases:
        raise Refused("no base is registered yet: say which one with --base")
    if len(bases) == 1:
        return bases[0]  # importing says what is wrong, if anything is
    if folder.is_file():
        names = ", ".join(card.name for card in bases)
        raise Refused(f"a prompt fits every base ({names}): say with --base which one it is for")
    found = fitting(folder, bases)
    names = ", ".join(card.name for card in found or bases)
    if not found:
        raise Refused(
            f"{folder} fits none of the registered bases ({names}); "
            "say with --base which one it is for, to be told why"
        )
    if len(found) > 1:
        raise Refused(f"{folder} fits several bases ({names}): say which one with --base")
    return found[0]


def _folder_of(text: str | None, card: BaseCard) -> Path | None:
    """Where the base's files are, where that is known: what `--base` named, or what is shipped."""
    place = (text or card.name).rpartition("=")[2]
    known = place in shipped.SHIPPED or "/" in place or Path(place).is_dir()
    return shipped.find_base(text or card.name).path if known else None
