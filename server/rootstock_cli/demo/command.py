"""The demo command.

Refuses to know the story: it is imported only when it is told.
"""

from __future__ import annotations

from typing import Annotated

import typer

from rootstock_cli.options import Home


def demo(
    home: Home,
    once: Annotated[
        bool, typer.Option("--once", help="Exit when the story is told, without serving on.")
    ] = False,
) -> None:
    """Train, serve, swap, route and export before your eyes, on real input; then keep serving."""
    from rootstock_cli.demo.story import tell

    tell(home.expanduser().absolute() / "demo", once)
