"""The `rootstock` command: every command under its name, and every failure in words.

Refuses to know what the commands do, and imports nothing that is slow before one is chosen.
"""

from __future__ import annotations

import os
import sys

import typer

from rootstock_cli import (
    aliases,
    asking,
    comparing,
    evidence,
    exporting,
    jobs,
    listing,
    registry,
    removing,
    serving,
    tenants,
    training,
)
from rootstock_cli.bench import command as bench
from rootstock_cli.demo import command as demo
from rootstock_cli.failures import in_words

app = typer.Typer(
    name="rootstock",
    help="One frozen base model, adapters chosen per request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

SERVE, MAKE, KEEP, USE = "Serve", "Make adapters", "Keep adapters", "Tenants and keys"
PROVE = "Prove what adapters are"
app.command("serve", rich_help_panel=SERVE)(serving.serve)
app.command("sidecar", rich_help_panel=SERVE)(serving.sidecar)
app.command("ask", rich_help_panel=SERVE)(asking.ask)
app.command("bench", rich_help_panel=SERVE)(bench.bench)
app.command("demo", rich_help_panel=SERVE)(demo.demo)
app.command("train", rich_help_panel=MAKE)(training.train)
app.command("compare", rich_help_panel=MAKE)(comparing.compare)
app.command("pretrain", rich_help_panel=MAKE)(training.pretrain)
app.add_typer(jobs.jobs, name="jobs", rich_help_panel=MAKE)
app.command("import", rich_help_panel=KEEP)(registry.import_)
app.command("list", rich_help_panel=KEEP)(listing.list_)
app.command("versions", rich_help_panel=KEEP)(listing.versions)
app.command("show", rich_help_panel=KEEP)(listing.show)
app.command("promote", rich_help_panel=KEEP)(aliases.promote)
app.command("rollback", rich_help_panel=KEEP)(aliases.rollback)
app.add_typer(aliases.alias, name="alias", rich_help_panel=KEEP)
app.command("yank", rich_help_panel=KEEP)(removing.yank)
app.command("delete", rich_help_panel=KEEP)(removing.delete)
app.command("gc", rich_help_panel=KEEP)(removing.gc)
app.command("export", rich_help_panel=KEEP)(exporting.export)
app.command("generate-key-pair", rich_help_panel=PROVE)(evidence.generate_key_pair)
app.command("sign", rich_help_panel=PROVE)(evidence.sign)
app.command("verify", rich_help_panel=PROVE)(evidence.verify)
app.add_typer(evidence.audit, name="audit", rich_help_panel=PROVE)
app.add_typer(tenants.tenant, name="tenant", rich_help_panel=USE)
app.add_typer(tenants.key, name="key", rich_help_panel=USE)
app.add_typer(tenants.route, name="route", rich_help_panel=USE)


def run() -> None:
    """The script's entry. Exits 0, 1 for a refusal, 2 for wrong usage, 130 after Ctrl-C."""
    # For this process and its children: threads that spin while they wait take the cores from the
    # server, the sidecar and the trainer, which run side by side.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app()
    except Exception as error:
        print(f"rootstock: {in_words(error)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
