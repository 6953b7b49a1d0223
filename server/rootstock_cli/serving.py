"""The commands that run processes: the server and the training sidecar.

Refuses to know requests and jobs: each hands over to its room.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rootstock_cli import shipped
from rootstock_cli.options import BASE_HELP, Home


def serve(
    home: Home,
    base: Annotated[
        list[str] | None, typer.Option(help=f"{BASE_HELP} Repeatable.", show_default=False)
    ] = None,
    host: Annotated[str | None, typer.Option(show_default="127.0.0.1")] = None,
    port: Annotated[
        int | None, typer.Option(help="HTTP; 0: a free one.", show_default="8000")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="gRPC; 0: a free one.", show_default="8001")
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "int8"] | None,
        typer.Option(help="Arithmetic of the bases.", show_default="auto"),
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="An adapter to keep resident. Repeatable.", show_default=False),
    ] = None,
    require_signature: Annotated[
        Path | None,
        typer.Option(
            metavar="PUB.pem", help="Load only what this key has signed.", show_default=False
        ),
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(help="PostgreSQL instead of SQLite.", show_default=False)
    ] = None,
    blobs: Annotated[
        str | None, typer.Option(help="s3://BUCKET/PREFIX instead of a folder.", show_default=False)
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Everybody here is tenant local; loopback only.")
    ] = False,
    no_sidecar: Annotated[
        bool, typer.Option("--no-sidecar", help="Start no training sidecar beside the server.")
    ] = False,
) -> None:
    """Serve frozen bases, and adapters on them per request, until Ctrl-C.

    Whatever is not given comes from ROOTSTOCK_… variables, then from the defaults.
    """
    from rootstock_server import config

    settings = config.load(
        {
            "home": home,
            "bases": [str(shipped.find_base(text)) for text in base] if base else None,
            "host": host,
            "port": port,
            "grpc_port": grpc_port,
            "dtype": dtype,
            "pinned": pin or None,
            "require_signature": require_signature,
            "database_url": database_url,
            "blobs": blobs,
            "no_auth": no_auth or None,
            "no_sidecar": no_sidecar or None,
        }
    )
    from rootstock_server.app import serve as run

    run(settings)


def sidecar(home: Home) -> None:
    """Run queued training jobs, one after the other, until Ctrl-C."""
    from rootstock_trainer import sidecar

    raise typer.Exit(sidecar.main(["--home", str(home.expanduser().absolute())]))
