"""The bench command: load on a server, running or started here; or a scenario of the benchmarks.

Refuses to know how load is made and how the scenarios compare.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from rootstock_cli.failures import Refused
from rootstock_cli.options import BASE_HELP, ApiKey, Home, Url
from rootstock_cli.private_server import private_server
from rootstock_cli.shipped import find_base

if TYPE_CHECKING:
    from rootstock_cli.bench.load import Load

VOCAB = 256  # ids that every vocabulary has
OURS = ["--no-auth", "--no-sidecar"]


class Traffic(NamedTuple):
    """What is sent. `rate` None: closed loop at `concurrency`."""

    requests: int
    concurrency: int
    rate: float | None
    zipf: float
    prompt_tokens: int
    new_tokens: int
    seed: int

    def title(self, models: int, base: str) -> str:
        how = (
            f"closed loop, {self.concurrency} at once"
            if self.rate is None
            else f"open loop, Poisson arrivals at {self.rate:g} per second"
        )
        return f"{models} models on {base}, power law {self.zipf:g}, {how}"


def bench(
    home: Home,
    url: Url = "http://127.0.0.1:8000",
    api_key: ApiKey = None,
    base: Annotated[
        str | None, typer.Option(help=f"Start a server of its own on this base. {BASE_HELP}")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="The served base to ask.", show_default="the first")
    ] = None,
    adapters: Annotated[
        int | None,
        typer.Option(min=0, help="How many of its adapters; 0: the base.", show_default="all"),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Closed loop: so many at once.")] = 16,
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Open loop: Poisson arrivals per second.")
    ] = None,
    requests: Annotated[int, typer.Option(min=1)] = 64,
    zipf: Annotated[
        float, typer.Option(min=0, help="Popularity: the k-th adapter's share is k^-ZIPF.")
    ] = 1.0,
    prompt_tokens: Annotated[int, typer.Option(min=1)] = 64,
    new_tokens: Annotated[int, typer.Option(min=1)] = 64,
    seed: int = 0,
    scenario: Annotated[
        str | None,
        typer.Option(help="In a clone: a scenario of benchmarks/, several with commas, or short."),
    ] = None,
    shape: Annotated[str, typer.Option(help="Scenarios: S, M or tiny.")] = "S",
    rounds: Annotated[int, typer.Option(min=1, help="Scenarios: rounds that count.")] = 3,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("benchmarks/results"),
) -> None:
    """Put a load on a server and say how fast its answers came, or compare it with its peers.

    Streams completions over HTTP; writes a table, JSON and a plot.
    """
    if scenario is not None:
        raise typer.Exit(_run_scenarios(scenario, shape, rounds, out))
    traffic = Traffic(requests, concurrency, rate, zipf, prompt_tokens, new_tokens, seed)
    with _server(home, base, url) as address:
        name, models = _models(address, api_key, model, adapters)
        load = _send(address, api_key, models, traffic)
    if not load.whole:
        words, _ = load.errors.most_common(1)[0]
        raise Refused(f"none of {requests} requests was answered by {address}: {words}")
    _tell(load, traffic.title(len(models), name), out)


@contextmanager
def _server(home: Path, base: str | None, url: str) -> Iterator[str]:
    if base is None:
        yield url
        return
    with private_server(home.expanduser().absolute(), [find_base(base)], OURS) as server:
        yield server.url


def _models(
    url: str, api_key: str | None, wanted: str | None, adapters: int | None
) -> tuple[str, list[str]]:
    """The base that is asked, and the models: its adapters, or, without any, the base."""
    from rootstock_client import Client

    with Client(url, api_key) as client:
        cards = client.models().data
    bases = [card.id for card in cards if card.parent is None]
    base = wanted or next(iter(bases), "")
    if base not in bases:
        raise Refused(f"{url} serves no base {base!r}; it serves: {', '.join(bases) or 'none'}")
    names = sorted(card.id for card in cards if card.parent == base)
    if adapters is not None and adapters > len(names):
        raise Refused(
            f"--adapters {adapters}: {url} has {len(names)} on {base}; publish more with "
            "rootstock import or rootstock train, or ask for fewer"
        )
    return base, names[:adapters] or [base]


def _send(url: str, api_key: str | None, models: list[str], traffic: Traffic) -> Load:
    from rootstock_cli.bench.load import closed_loop, open_loop
    from rootstock_cli.bench.traffic import Ask, by_power_law, poisson, prompt

    source = Random(traffic.seed)
    asks = [
        Ask(prompt(traffic.prompt_tokens, VOCAB, source), model, traffic.new_tokens)
        for model in by_power_law(models, traffic.zipf, traffic.requests, source)
    ]
    with Console(stderr=True).status(f"asking {url}"):
        if traffic.rate is None:
            return closed_loop(url, asks, traffic.concurrency, api_key)
        due = poisson(traffic.rate, traffic.requests, source)
        return open_loop(url, asks, due, api_key)


def _tell(load: Load, title: str, out: Path) -> None:
    from rootstock_cli.bench.origin import origin
    from rootstock_cli.bench.report import figures, rows, write

    console = Console()
    table = Table(title=title, show_header=False, box=None)
    for what, value in rows(figures(load)):
        table.add_row(what, value)
    console.print(table)
    files = write(out, title, origin(["rootstock", *sys.argv[1:]]), load)
    for file in files:
        console.print(f"wrote {file}", markup=False, soft_wrap=True)
    if len(files) < 3:
        console.print("no plot: matplotlib is not installed")


def _run_scenarios(names: str, shape: str, rounds: int, out: Path) -> int:
    """Run the clone's own program: peers and scenarios need what only its developers install."""
    clones = (Path.cwd(), Path(__file__).resolve().parents[3])
    clone = next((c for c in clones if (c / "benchmarks" / "__main__.py").is_file()), None)
    if clone is None:
        raise Refused("--scenario: the scenarios are in benchmarks/ of a clone; run this there")
    command = [sys.executable, "-m", "benchmarks", "--scenario", names, "--shape", shape]
    command += ["--rounds", str(rounds), "--out", str(out.absolute())]
    # The peers keep OpenMP's own way of waiting; ours was set for this process and its servers.
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    return subprocess.run(command, cwd=clone, env=env).returncode
