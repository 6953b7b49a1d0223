"""The options that several commands share, with one meaning everywhere.

The only file of the command that names environment variables; refuses to know any command.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

LOCAL = "local"

Home = Annotated[
    Path,
    typer.Option(
        envvar="ROOTSTOCK_HOME",
        help="Folder of the registry, the blobs and the caches.",
        file_okay=False,
        show_default="~/.rootstock",
        default_factory=lambda: Path.home() / ".rootstock",
    ),
]
Tenant = Annotated[str, typer.Option(help="Whose adapters.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Promote = Annotated[
    str | None, typer.Option(metavar="ALIAS", help="Move this alias to the new version.")
]
Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GATE",
        help="Before the alias moves: 'accuracy>=0.9' (quoted), or signature. Repeatable.",
        show_default=False,
    ),
]
Url = Annotated[str, typer.Option(envvar="ROOTSTOCK_URL", help="Where the server answers.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="ROOTSTOCK_API_KEY", help="The key; not needed with --no-auth."),
]

# Where a home that is used for the first time keeps what: the fields of the registry's storage.
STORAGE_VARIABLES = {"database_url": "ROOTSTOCK_DATABASE_URL", "blobs": "ROOTSTOCK_BLOBS"}


def storage_given() -> dict[str, str]:
    """What the environment says of it."""
    found = {field: os.environ.get(name, "") for field, name in STORAGE_VARIABLES.items()}
    return {field: value for field, value in found.items() if value}


BASE_HELP = "[NAME=]PATH of a Hugging Face folder, minilm, demo, or ORG/NAME on the hub."
