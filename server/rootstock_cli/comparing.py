"""The compare command: many methods on one dataset, one table, one picture, one piece of advice.

Refuses to know how anything is trained; the trainer's workers do that, one job after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rootstock_wire.comparisons import budget_words, variants_for

from rootstock_cli import shipped
from rootstock_cli.comparing_cost import with_cost
from rootstock_cli.failures import Refused
from rootstock_cli.options import BASE_HELP, LOCAL, Home, Json, Tenant
from rootstock_cli.registry import check_tenant, open_registry, print_json
from rootstock_cli.training import base_of_spec

if TYPE_CHECKING:
    from rootstock_registry import Comparison, Job, Registry
    from rootstock_trainer.compare import Planned
    from rootstock_wire.comparisons import ComparisonResult, Variant


def compare(
    base: Annotated[str, typer.Option(help=BASE_HELP)],
    data: Annotated[
        Path,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="As for train: labelled texts, or messages, or prompt and completion.",
        ),
    ],
    home: Home,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B:X=1,…",
            help="METHOD[:SETTING=VALUE…], between commas. Repeatable. Default: one of each idea.",
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", metavar="NAME", help="Begins the versions' names. Default: FILE's."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=10, help="Runs of each variant.")] = 1,
    budget: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="Training time of each run; default: equal passes."
        ),
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="The figure that decides. Default: accuracy, or chrf.")
    ] = None,
    text_column: Annotated[str, typer.Option(metavar="C", help="Labelled texts: texts.")] = "text",
    label_column: Annotated[
        str, typer.Option(metavar="C", help="Labelled texts: labels.")
    ] = "label",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where table and picture go. Default: NAME-comparison."),
    ] = None,
    serving: Annotated[
        bool, typer.Option("--serving/--no-serving", help="Also measure what serving costs.")
    ] = True,
    tenant: Tenant = LOCAL,
    as_json: Json = False,
) -> None:
    """Train many methods on one dataset, and see which of them is worth it."""
    home = home.expanduser().absolute()
    registry = open_registry(home)
    check_tenant(registry, tenant)
    source = shipped.find_base(base)
    common = {
        "data": str(data.expanduser().absolute()),
        "text_column": text_column,
        "label_column": label_column,
        **base_of_spec(registry, source),
    }
    with Console(stderr=True).status("loading the trainer"):
        from rootstock_trainer import compare as room
    name = name or shipped.as_name(data.stem)
    asked = _variants(registry.base(common["base"]).task, methods or [])
    planned = room.plan(asked, common, name, range(seeds), budget)
    facts = {
        "model": common["base"],
        "methods": [each.label for each in asked],
        "seeds": seeds,
        "metric": metric,
        "budget": budget_words(budget),
        "foreground": True,
    }
    comparison = _submit(registry, tenant, planned, facts)
    with _abandoning(registry, comparison):
        _run(registry, home, comparison, planned)
    table = room.gather(registry, comparison.spec)
    if table is None:
        raise Refused(f"comparison {comparison.id}: a job has not ended; see rootstock jobs")
    if serving and tenant == LOCAL:
        try:
            table = with_cost(table, home, source, data, text_column)
        except Refused as error:
            # What was trained for hours is worth its table without that column.
            Console(stderr=True).print(f"what serving costs is not known: {error}", markup=False)
    ended = room.keep(registry, comparison, table)
    folder = (out or Path(f"{name}-comparison")).expanduser()
    _write(table, folder, f"{name} on base {common['base']}")
    if as_json:
        print_json({"id": ended.id, "status": ended.state, **table.model_dump(mode="json")})
    else:
        _say(table, folder)
    if ended.state == "failed":
        raise typer.Exit(1)


def _variants(task: str, methods: Sequence[str]) -> list[Variant]:
    try:
        return variants_for(task, methods)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--methods") from None


def _submit(
    registry: Registry, tenant: str, planned: Sequence[Planned], facts: dict[str, Any]
) -> Comparison:
    runs = [
        {
            "label": each.label,
            "seed": each.seed,
            "job": registry.submit_job(tenant, each.spec.model_dump(mode="json")).id,
        }
        for each in planned
    ]
    return registry.create_comparison(tenant, {**facts, "runs": runs})


def _run(
    registry: Registry, home: Path, comparison: Comparison, planned: Sequence[Planned]
) -> None:
    from rootstock_trainer.foreground import follow

    console = Console(stderr=True)
    for number, (run, each) in enumerate(
        zip(comparison.spec["runs"], planned, strict=True), start=1
    ):
        console.print(
            f"{number} of {len(planned)}: {each.label}, seed {each.seed}", highlight=False
        )
        ended: Job = follow(registry, home, registry.job(run["job"]), each.spec, console)
        if ended.error:
            console.print(f"{each.label} failed: {ended.error}", markup=False, highlight=False)


@contextmanager
def _abandoning(registry: Registry, comparison: Comparison) -> Iterator[None]:
    """Who leaves before the end leaves no job behind that nobody waits for."""
    from rootstock_registry.errors import Conflict

    try:
        yield
    except BaseException:
        for run in comparison.spec["runs"]:
            with suppress(Conflict):
                registry.cancel_job(comparison.tenant, run["job"])
        registry.finish_comparison(comparison, {"error": "interrupted"}, failed=True)
        raise


def _write(table: ComparisonResult, folder: Path, title: str) -> None:
    from rootstock_trainer.compare_picture import draw
    from rootstock_trainer.compare_table import markdown

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown(table, title), encoding="utf-8")
    (folder / "table.json").write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    draw(table, title, folder / "picture.png")


def _say(table: ComparisonResult, folder: Path) -> None:
    from rootstock_trainer.compare_table import header, rows

    shown = Table(*header(table), box=None, pad_edge=False)
    for row in rows(table):
        chosen = row[0] == table.recommendation.choice
        shown.add_row(*row, style="bold" if chosen else "")
    console = Console()
    console.print(shown)
    console.print(f"\n[bold]{table.recommendation.text}[/bold]")
    for reason in table.recommendation.reasons:
        console.print(f"- {reason}", markup=False, highlight=False)
    console.print(f"\ntable and picture: {folder}", markup=False, highlight=False)
