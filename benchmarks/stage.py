"""Everything the arms of the scenarios stand on, made once and when it is first asked for.

Bases, adapters, registries and running systems. Refuses to know what is timed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry

from benchmarks import shapes
from benchmarks.server import serving
from benchmarks.workload import ADAPTERS, BASE_NAME, RANKS, Shape, adapter_names

TENANT = "local"
T = TypeVar("T")


@dataclass(frozen=True)
class Server:
    """One way to run our server: how many adapters it knows, and for how many it has room."""

    adapters: int = ADAPTERS
    slots: int | None = None  # None: room for all
    dtype: str | None = None  # None: the base's own


@dataclass
class Stage:
    """A folder for one run of the benchmark; a context, at whose end all that was started ends."""

    shape: Shape
    folder: Path
    vllm: Path  # the virtual environment that has vLLM's CPU build, or would have it
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _kept: dict[Any, Any] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all running systems and forget the loaded ones; bases and registries stay."""
        self._kept.clear()
        self._open.close()

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` gave the first time, until `close`."""
        if key not in self._kept:
            self._kept[key] = make()
        found: T = self._kept[key]
        return found

    def enter(self, context: contextlib.AbstractContextManager[T]) -> T:
        return self._open.enter_context(context)

    @cached_property
    def base(self) -> Path:
        return shapes.make_base(self.shape, self.folder / "base")

    @cached_property
    def card(self) -> BaseCard:
        return BaseCard.read(self.base, BASE_NAME)

    @cached_property
    def adapters(self) -> dict[str, Path]:
        """PEFT folders of the adapters that peers get, too."""
        return {
            name: shapes.make_adapter(self.shape, self.base, number, self.folder / name)
            for number, name in enumerate(adapter_names(ADAPTERS))
        }

    def home(self, adapters: int) -> Path:
        """A registry with `adapters` of them, as version 1 of its name each."""
        home = self.folder / f"home-{adapters}"
        if not home.exists():
            registry = Registry(home)
            registry.add_base(self.card)
            for number, name in enumerate(adapter_names(adapters)):
                self._import(registry, number, name)
            registry.close()
        return home

    def _import(self, registry: Registry, number: int, name: str) -> None:
        if folder := self.adapters.get(name):
            registry.import_peft(TENANT, name, folder, self.card, promote="prod")
            return
        # A thousand of them would fill a disk twice.
        folder = shapes.make_adapter(self.shape, self.base, number, self.folder / "one")
        registry.import_peft(TENANT, name, folder, self.card, promote="prod")
        shutil.rmtree(folder)

    def server(self, how: Server) -> str:
        """The address of our server, run like that. Raises ServerFailed."""
        return self.once(how, lambda: self.enter(self._serving(how)))

    def _serving(self, how: Server) -> contextlib.AbstractContextManager[str]:
        options = ["--dtype", how.dtype] if how.dtype else []
        room = adapter_memory_mib(self.shape, how.adapters if how.slots is None else how.slots)
        engine = "ROOTSTOCK_LIMITS__ENGINE"
        env = {f"{engine}__THREADS": str(self.threads)}
        if how.slots is not None or room > 1024:  # the default
            env[f"{engine}__ADAPTER_MEMORY_MIB"] = str(room)
        home = self.home(how.adapters)
        return serving(home, f"{BASE_NAME}={self.base}", options, env)


def adapter_memory_mib(shape: Shape, adapters: int) -> int:
    """Room for so many resident adapters of the ranks in turn, in fp32."""
    widths = sum(sum(sizes) for sizes in shape.linears.values())
    values = sum(RANKS) / len(RANKS) * widths * shape.layers
    return max(1, round(4 * values * adapters / 2**20))
