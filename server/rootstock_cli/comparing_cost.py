"""What serving a version costs beside the base alone: added latency and tokens per second.

Measured over HTTP on a server of its own, one request at a time, in turns, so that a busy moment
hits all alike. Refuses to know how the versions were made.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rootstock_wire.comparisons import BASE

from rootstock_cli.private_server import private_server
from rootstock_cli.shipped import Source

if TYPE_CHECKING:
    from rootstock_client import Client
    from rootstock_wire.comparisons import ComparisonResult, Entry

ROUNDS = 7
ASKED = 4  # different rows of the data, taken in turns
NEW_TOKENS = 32
TEXTS_AT_ONCE = 16
ASKED_WITH = ("prompt", "source_lang", "target_lang")  # of a row; the last two are a translator's
LONGEST = 1000  # characters of a row that is asked with: it must fit the context with its answer


class Cost(NamedTuple):
    """Medians: of a request that is answered with one token or one verdict, and of a long one."""

    latency_ms: float
    tokens_per_s: float


def with_cost(
    table: ComparisonResult, home: Path, base: Source, data: Path, text_column: str
) -> ComparisonResult:
    """The table with what each version costs; what cannot be served keeps its gaps."""
    asks = _asks(data, text_column)
    served = [entry for entry in table.entries if entry.versions]
    if not asks or not served:
        return table
    from rootstock_client import Client

    with (
        private_server(home, [base], ("--no-auth", "--no-sidecar")) as running,
        Client(running.url) as client,
        Console(stderr=True).status("measuring what serving costs"),
    ):
        subjects = {entry.label: entry.versions[0] for entry in served}
        costs = measure(client, base.name, subjects, asks)
    entries = [_priced(entry, costs) for entry in table.entries]
    return table.model_copy(update={"entries": entries})


def measure(
    client: Client, base: str, subjects: Mapping[str, str], asks: Sequence[dict[str, Any]]
) -> dict[str, Cost]:
    """The cost of the base under BASE, and of each subject (label: model) under its label.

    A subject that the server refuses is told of on stderr, and left out.
    """
    from rootstock_client import ApiError

    ways: dict[str, Way] = {}
    for label, model in {**subjects, BASE: base}.items():
        try:
            ways[label] = way = _way(client, model, label == BASE, asks)
            for ask in asks:  # loads the version, and is not counted
                way.short(ask)
            way.long(asks[0])
        except ApiError as error:
            ways.pop(label, None)
            Console(stderr=True).print(f"{label} was not served: {error.message}", markup=False)
    short: dict[str, list[float]] = {label: [] for label in ways}
    speed: dict[str, list[float]] = {label: [] for label in ways}
    for turn in range(ROUNDS):
        for label, way in ways.items():
            ask = asks[turn % len(asks)]
            begun = time.perf_counter()
            way.short(ask)
            between = time.perf_counter()
            tokens = way.long(ask)
            speed[label].append(tokens / (time.perf_counter() - between))
            short[label].append(1000 * (between - begun))
    return {
        label: Cost(statistics.median(short[label]), statistics.median(speed[label]))
        for label in ways
    }


class Way(NamedTuple):
    """How a model is asked; both give the number of tokens that count for its speed."""

    short: Callable[[dict[str, Any]], int]
    long: Callable[[dict[str, Any]], int]


def _way(client: Client, model: str, is_base: bool, asks: Sequence[dict[str, Any]]) -> Way:
    if "input" in asks[0]:
        read = _embedder(client, model) if is_base else _classifier(client, model)
        many = [ask["input"] for ask in asks] * TEXTS_AT_ONCE
        return Way(lambda ask: read([ask["input"]]), lambda _: read(many[:TEXTS_AT_ONCE]))

    def write(ask: dict[str, Any], tokens: int) -> int:
        options = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0.0}
        if "messages" in ask:
            return client.chat(model, ask["messages"], **options).usage.completion_tokens
        return client.complete(model, **ask, **options).usage.completion_tokens

    return Way(lambda ask: write(ask, 1), lambda ask: write(ask, NEW_TOKENS))


def _embedder(client: Client, model: str) -> Callable[[list[str]], int]:
    return lambda texts: client.embed(model, texts).usage.prompt_tokens


def _classifier(client: Client, model: str) -> Callable[[list[str]], int]:
    return lambda texts: client.classify(texts, [model]).usage.prompt_tokens


def _asks(data: Path, text_column: str) -> list[dict[str, Any]]:
    """Rows of the data as requests: messages up to the answer, a prompt, or a text to classify."""
    from rootstock_trainer.records import read_records

    records, _ = read_records(data)
    asks = []
    for record in records:
        fields = record.fields
        if fields.get("messages"):
            asks.append({"messages": [_said(turn) for turn in fields["messages"][:-1]]})
        elif fields.get("prompt"):
            asks.append({name: fields[name] for name in ASKED_WITH if fields.get(name)})
        elif fields.get(text_column):
            asks.append({"input": str(fields[text_column])})
    fitting = [ask for ask in asks if len(str(ask)) <= LONGEST]
    count = min(ASKED, len(fitting))
    return [fitting[i * len(fitting) // count] for i in range(count)]


def _said(turn: Mapping[str, Any]) -> dict[str, Any]:
    """A turn without its weight, which only training reads."""
    return {name: value for name, value in turn.items() if name != "weight"}


def _priced(entry: Entry, costs: Mapping[str, Cost]) -> Entry:
    alone, cost = costs.get(BASE), costs.get(entry.label)
    if alone is None or cost is None:
        return entry
    return entry.model_copy(
        update={
            "added_latency_ms": cost.latency_ms - alone.latency_ms,
            "tokens_per_s": cost.tokens_per_s,
        }
    )
