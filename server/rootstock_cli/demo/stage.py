"""What every chapter of the demo has at hand: the home, the registry, the server, a way to speak.

Refuses to know the chapters and their order.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.rule import Rule

from rootstock_cli.options import LOCAL
from rootstock_cli.private_server import Running
from rootstock_cli.shipped import Source

if TYPE_CHECKING:
    from rootstock_adapters.base_card import BaseCard
    from rootstock_registry import Registry

TENANTS = (LOCAL, "north", "south")
KEY_FILE = "keys.json"


@dataclass
class Stage:
    """`sources` and `cards` by base name; `keys` are the tenants' secrets."""

    home: Path
    console: Console
    registry: Registry
    sources: dict[str, Source]
    cards: dict[str, BaseCard]
    keys: dict[str, str]
    server: Running
    repeat: list[tuple[str, str]] = field(default_factory=list)

    def chapter(self, title: str) -> None:
        self.console.print()
        self.console.print(Rule(f"[bold]{title}[/bold]", align="left"))

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False)

    def line(self, text: str) -> None:
        """One line whatever the terminal's width, to be copied or searched."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def remember(self, what: str, *words: str) -> None:
        """Keep a line with which the reader can do the same again."""
        self.repeat.append((what, " ".join(words)))

    def remember_post(
        self, what: str, path: str, body: dict[str, Any], tenant: str = LOCAL
    ) -> None:
        quoted = shlex.quote(json.dumps(body, ensure_ascii=False))
        self.remember(
            what,
            f'curl -s {self.server.url}{path} -H "Authorization: Bearer ${variable(tenant)}" '
            f"-H 'Content-Type: application/json' -d {quoted}",
        )

    @property
    def exports(self) -> list[str]:
        """The shell lines that give the keys to the lines to repeat."""
        return [f"export {variable(tenant)}={self.keys[tenant]}" for tenant in TENANTS]


def program(name: str) -> str:
    """How to call one of our programs: by its name, or in full where no shell would find it."""
    return name if shutil.which(name) else str(Path(sys.executable).with_name(name))


def variable(tenant: str) -> str:
    """The shell variable that holds a tenant's key."""
    return f"{tenant.upper()}_KEY"


def tenant_keys(home: Path, registry: Registry) -> dict[str, str]:
    """One key for each tenant of the demo, made at first and the same ever after.

    They are kept beside the demo's registry, readable by its owner only: the lines to repeat are
    worth nothing without them.
    """
    file = home / KEY_FILE
    kept: dict[str, str] = json.loads(file.read_text()) if file.is_file() else {}
    for tenant in TENANTS:
        if tenant not in registry.tenants():
            registry.create_tenant(tenant)
        owner = registry.key_owner(kept.get(tenant, ""))
        if owner is None or owner.tenant != tenant:
            _, kept[tenant] = registry.create_key(tenant, "caller")
    draft = file.with_suffix(".draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(kept, stream)
    draft.replace(file)
    return kept
