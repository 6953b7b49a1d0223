"""The commands that make things: train an adapter, pre-train a small base.

Refuses to know torch and methods: the trainer's processes do the work.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rootstock_cli import shipped
from rootstock_cli.options import BASE_HELP, LOCAL, Home, Promote, Require, Tenant
from rootstock_cli.registry import check_tenant, open_registry, register_base, say_version

if TYPE_CHECKING:
    from rootstock_registry import Registry


def train(
    method: Annotated[str, typer.Option(help="How: head, lora, few-shot… (docs/training.md).")],
    base: Annotated[str, typer.Option(help=BASE_HELP)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="CSV, JSONL or Parquet: texts with labels, or messages, or prompt and completion.",
        ),
    ],
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="The adapter's name.")],
    home: Home,
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", exists=True, dir_okay=False, help="Rows to measure on, like --data."
        ),
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="C", help="Labels: the texts.")] = "text",
    text_pair_column: Annotated[
        str | None, typer.Option(metavar="C", help="Labels: the second texts of pairs.")
    ] = None,
    label_column: Annotated[str, typer.Option(metavar="C", help="Labels: the labels.")] = "label",
    promote: Promote = None,
    require: Require = None,
    seed: Annotated[int, typer.Option(help="Decides split, order and first weights.")] = 0,
    hyperparameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A hyperparameter. Repeatable."),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach",
            help="Leave the job to the sidecar; print its id. The server's page /jobs shows it.",
        ),
    ] = False,
    priority: Annotated[
        int, typer.Option(min=-100, max=100, help="With --detach: higher comes first.")
    ] = 0,
    tenant: Tenant = LOCAL,
) -> None:
    """Train a new version of an adapter from examples, in a process of its own."""
    home = home.expanduser().absolute()
    registry = open_registry(home)
    check_tenant(registry, tenant)
    spec = {
        "method": method,
        "data": str(data.expanduser().absolute()),
        "name": name,
        "validation": None if validation is None else str(validation.expanduser().absolute()),
        "text_column": text_column,
        "text_pair_column": text_pair_column,
        "label_column": label_column,
        "promote": promote,
        "require": require or [],
        "seed": seed,
        "hyperparameters": dict(_setting(text) for text in hyperparameters or []),
        **base_of_spec(registry, shipped.find_base(base)),
    }
    from rootstock_registry import gates
    from rootstock_registry.evaluations import figures
    from rootstock_trainer.foreground import run_foreground
    from rootstock_trainer.spec import TrainSpec

    checked = TrainSpec.parse(spec)
    if detach:
        print(registry.submit_job(tenant, checked.model_dump(mode="json"), priority=priority).id)
    else:
        version = run_foreground(home, tenant, checked)
        say_version(version, as_json=False)
        if promote is not None and promote not in version.aliases:
            later = registry.evidence.evaluations(tenant, version.digest)
            gates.check(gates.parse(checked.require), figures(version.manifest, later), version.ref)


def _setting(text: str) -> tuple[str, object]:
    """A value is JSON where it can be, as `5`, `true` or `[0, 3]`, and else text, as `top4`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{text!r} is not NAME=VALUE, as in n_epochs=5")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def base_of_spec(registry: Registry, source: shipped.Source) -> dict[str, str]:
    """The fields of a job that say what it trains on; the base is registered by this."""
    return {"base": register_base(registry, source).name, "base_path": str(source.path)}


def pretrain(
    data: Annotated[
        list[Path],
        typer.Option(
            metavar="FILE|DIR",
            help="JSONL or Parquet with text or messages, plain text, or folders of them. "
            "Repeatable.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The new folder for the base.")],
    params: Annotated[int, typer.Option(min=1000, help="The most parameters.")] = 4_000_000,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Optimizer steps; default: every row once.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Wall clock instead of steps.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides split, order and weights.")] = 0,
) -> None:
    """Pre-train a small base from scratch; asked again, it goes on where it was interrupted."""
    with Console(stderr=True).status("loading torch"):
        from rootstock_trainer import pretrain as room
        from rootstock_trainer.pretrain_settings import PretrainSettings
    settings = PretrainSettings(parameters=params, steps=steps, minutes=minutes, seed=seed)
    report = room.pretrain(data, out, settings)
    console = Console(soft_wrap=True)
    console.print(f"[bold]{out}[/bold]: {report.parameters:,} parameters, {report.steps} steps")
    for name in ("model", "trigram", "unigram"):
        loss = getattr(report, name)
        console.print(f"  {name:8} {loss.nats_per_token:.3f} nats per held-out token")
    console.print(f"serve it: rootstock serve --base {out} --no-auth", markup=False)
