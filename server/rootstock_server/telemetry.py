"""The one list of metrics, and how the log is written.

Refuses to know tenants' names, texts and keys: no label and no field carries one. Gauges named
`vllm:…` are those that LoRA-aware gateways read (Gateway API inference extension, proposal 003).
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter as CountOf
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rootstock_server.engine.request import Heartbeat

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
SHORT = 12  # hex digits of a digest in a label

Heartbeats = Callable[[], dict[str, Heartbeat | None]]


class Telemetry:
    """`heartbeats` gives each base's last one; `max_adapters` how many may run in one batch."""

    def __init__(self, heartbeats: Heartbeats, max_adapters: int) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rootstock_requests", "Answered requests", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "rootstock_request_seconds",
            "From a request's arrival to its last byte",
            ["route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._tokens = Counter(
            "rootstock_tokens", "Tokens read and made", ["kind", "base"], registry=self._registry
        )
        self._quarantined = Counter(
            "rootstock_quarantined_versions",
            "Versions whose stored bytes were found to be damaged",
            registry=self._registry,
        )
        self._in_flight: CountOf[str] = CountOf()
        self._registry.register(_EngineGauges(heartbeats, self._in_flight, max_adapters))

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def tokens(self, kind: str, base: str, count: int) -> None:
        self._tokens.labels(kind, base).inc(count)

    def quarantined(self, count: int) -> None:
        self._quarantined.inc(count)

    @contextmanager
    def in_flight(self, digests: Iterable[str]) -> Iterator[None]:
        """Count these versions as asked for until the context ends."""
        asked = list(digests)
        self._in_flight.update(asked)
        try:
            yield
        finally:
            self._in_flight.subtract(asked)
            for digest in asked:
                if not self._in_flight[digest]:
                    del self._in_flight[digest]

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _EngineGauges(Collector):
    """What the engines said in their last heartbeats, read when somebody asks."""

    def __init__(self, heartbeats: Heartbeats, in_flight: CountOf[str], max_adapters: int) -> None:
        self._heartbeats, self._in_flight = heartbeats, in_flight
        self._max_adapters = max_adapters

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        beats = {name: beat for name, beat in self._heartbeats().items() if beat is not None}
        yield _by_base("vllm:num_requests_running", "Requests in the batch", beats, _running)
        yield _by_base("vllm:num_requests_waiting", "Requests in the queue", beats, _waiting)
        yield _by_base("vllm:kv_cache_usage_perc", "Used share of the KV cache", beats, _kv_share)
        yield _counted("vllm:num_preemptions", "Requests put back for others", beats, _preempted)
        yield _counted("vllm:prefix_cache_hits", "Prompt tokens found again", beats, _found)
        yield self._adapters(beats)

    def _adapters(self, beats: dict[str, Heartbeat]) -> GaugeMetricFamily:
        # Residency is what a gateway wants to know; vLLM itself reports what is in flight.
        resident = {each.version for beat in beats.values() for each in beat.resident}
        waiting = set(self._in_flight) - resident
        info = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Resident and awaited adapters by digest; the value is the time of this line",
            labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
        )
        info.add_metric((str(self._max_adapters), _short(resident), _short(waiting)), time.time())
        return info


def _by_base(
    name: str, text: str, beats: dict[str, Heartbeat], value: Callable[[Heartbeat], float]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("model_name",))
    for base, beat in beats.items():
        family.add_metric((base,), value(beat))
    return family


def _counted(
    name: str, text: str, beats: dict[str, Heartbeat], value: Callable[[Heartbeat], float]
) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=("model_name",))
    for base, beat in beats.items():
        family.add_metric((base,), value(beat))
    return family


def _preempted(beat: Heartbeat) -> float:
    return beat.preemptions


def _found(beat: Heartbeat) -> float:
    return beat.prefix_hit_tokens


def _running(beat: Heartbeat) -> float:
    return beat.running


def _waiting(beat: Heartbeat) -> float:
    return beat.waiting


def _kv_share(beat: Heartbeat) -> float:
    return beat.kv_blocks_used / beat.kv_blocks if beat.kv_blocks else 0.0


def _short(digests: Iterable[str]) -> str:
    return ",".join(sorted(digest.removeprefix("sha256:")[:SHORT] for digest in digests))


def log_to_stderr() -> None:
    """One JSON object per line, for our own events and for those of the libraries."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.dict_tracebacks,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    # How the database's schema is brought up to date is of no use to who reads this.
    logging.getLogger("alembic").setLevel(logging.WARNING)
