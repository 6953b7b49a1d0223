"""Decode steps replayed as the operations that they ran, without the modules between them.

What CUDA graphs are to a GPU: one row of a small base takes as long in Python as in its norms and
attention together. Refuses to know what an operation computes.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from rootstock_server.backends.cpu.layout import Inputs
from rootstock_server.backends.recordable import SameArrays, recordable
from rootstock_server.backends.step import Step

log = logging.getLogger(__name__)

MOST_ROWS = 16  # beyond that, Python is a small share of a step
MOST = 128  # recordings kept; the least recently used goes first
CHUNK = 1 << 22  # bytes of the arena at a time
ALIGNED = 64  # bytes of a cache line


class Unrecordable(RuntimeError):
    """A step does what no replay could repeat. The message says what."""


class Recordings:
    """All recordings of one base. Only the engine's thread may touch it.

    One is made when a kind of step is first seen, and trusted when it has repeated the second such
    step to the bit.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Recording] = OrderedDict()
        self._arena = Arena()
        self.failure: str | None = None  # why nothing is recorded any more

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        """Hidden states [T, D]; the next call may overwrite them."""
        if self.failure is not None or len(step.rows) > MOST_ROWS or not recordable(step):
            return forward(step)
        kinds = tuple((SameArrays(a.arrays), a.scales is None) for a in step.attachments)
        key = (len(step.rows), step.cache, kinds)
        if key not in self._kept:
            return self._first(key, step, forward)
        self._kept.move_to_end(key)
        recording = self._kept[key]
        if recording.proven:
            return recording.replay(step)
        return self._second(recording, step, forward)

    def _first(self, key: Any, step: Step, forward: Callable[[Step], Tensor]) -> Tensor:
        try:
            recording = record(step, forward, self._arena)
        except Exception as error:  # whatever it is, the step can run without being recorded
            hidden = forward(step)  # unless it is the step's own
            self._stop(f"{type(error).__name__}: {error}")
            return hidden
        self._kept[key] = recording
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)
        return recording.hidden

    def _second(
        self, recording: Recording, step: Step, forward: Callable[[Step], Tensor]
    ) -> Tensor:
        replayed = recording.replay(step).clone()
        hidden = forward(step)
        recording.proven = _same_bits(replayed, hidden)
        if not recording.proven:
            self._stop("a replayed step differed from the step itself")
        return hidden

    def _stop(self, failure: str) -> None:
        self.failure = failure
        self._kept.clear()
        log.warning("decode steps run unrecorded, and slower: %s", failure)


@dataclass(frozen=True)
class Call:
    op: OpOverload
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    homes: tuple[Tensor, ...]  # where its results belong; none where they are its own arguments


class Recording:
    """The operations of one step, on tensors that stay where they are."""

    def __init__(self, inputs: Inputs, calls: list[Call], hidden: Tensor) -> None:
        self.hidden = hidden  # [T, D], overwritten by every replay of any recording
        self.proven = False
        self._inputs, self._calls = inputs, calls

    def replay(self, step: Step) -> Tensor:
        self._inputs.fill(step)
        for call in self._calls:
            result = call.op(*call.args, **call.kwargs)
            if call.homes:
                made = (result,) if isinstance(result, Tensor) else result
                for home, tensor in zip(call.homes, made, strict=True):
                    home.copy_(tensor)
        return self.hidden


def record(step: Step, forward: Callable[[Step], Tensor], arena: Arena) -> Recording:
    """Run `step` once and keep what it ran. Raises Unrecordable, and whatever `forward` raises."""
    assert step.cache is not None
    inputs = Inputs(step)
    arena.restart()
    recorder = Recorder([*inputs, *step.cache.keys, *step.cache.values], arena)
    with recorder:
        hidden = forward(inputs.step(step))
    unused = [each for each in inputs if not recorder.used(each)]
    if unused:
        raise Unrecordable(f"{len(unused)} of its inputs were not read as tensors")
    return Recording(inputs, recorder.calls, hidden)


class Recorder(TorchDispatchMode):
    """Sees every operation; keeps those that depend on a step's inputs or on the cache.

    What depends on neither is the same in every step. Views are kept by nobody: their memory stays.
    """

    def __init__(self, changing: Iterable[Tensor], arena: Arena) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._changing = {_memory(each) for each in changing}
        self._used: set[int] = set()
        self._arena = arena

    def used(self, tensor: Tensor) -> bool:
        return _memory(tensor) in self._used

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        memories = {_memory(each) for each in _tensors((args, kwargs))}
        if not memories & self._changing:
            return result
        self._used |= memories
        writes = func._schema.is_mutable
        if writes:
            self._check_written(func, args, kwargs)
        made = tuple(_tensors(result))
        if not made and not writes:
            raise Unrecordable(f"{func} takes a number out of a tensor")
        if all(_memory(each) in memories for each in made):
            if writes:
                self.calls.append(Call(func, args, kwargs, ()))
            return result
        homes = tuple(self._at_home(each) for each in made)
        self.calls.append(Call(func, args, kwargs, homes))
        return homes[0] if isinstance(result, Tensor) else type(result)(homes)

    def _at_home(self, tensor: Tensor) -> Tensor:
        home = self._arena.like(tensor)
        self._changing.add(_memory(home))
        return home.copy_(tensor)

    def _check_written(
        self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        """A constant that is written to would hold what the last step left there."""
        for number, argument in enumerate(func._schema.arguments):
            if argument.alias_info is None or not argument.alias_info.is_write:
                continue
            given = args[number] if number < len(args) else kwargs.get(argument.name)
            if not {_memory(each) for each in _tensors(given)} <= self._changing:
                raise Unrecordable(f"{func} writes into what every step shares")


class Arena:
    """Memory for the results of recordings, which never run at once and so may share it."""

    def __init__(self) -> None:
        self._chunks: list[Tensor] = []
        self.restart()

    def restart(self) -> None:
        """Give out the same memory again."""
        self._chunk, self._taken = 0, 0

    def like(self, tensor: Tensor) -> Tensor:
        """Of this shape, dtype and these strides."""
        size = tensor.untyped_storage().nbytes()
        while self._chunk < len(self._chunks):
            chunk = self._chunks[self._chunk]
            if self._taken + size <= len(chunk):
                break
            self._chunk, self._taken = self._chunk + 1, 0
        else:
            chunk = torch.empty(max(CHUNK, size), dtype=torch.uint8)
            self._chunks.append(chunk)
        piece = chunk[self._taken : self._taken + size].view(tensor.dtype)
        self._taken += -(-size // ALIGNED) * ALIGNED
        return piece.as_strided(tensor.shape, tensor.stride(), piece.storage_offset())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)


def _memory(tensor: Tensor) -> int:
    """Where it lies, views with what they show; oneDNN's weights, which never change, nowhere."""
    return -1 if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal, and what is not a number in one is none in the other."""
    return torch.equal(one.nan_to_num(), other.nan_to_num()) and torch.equal(
        one.isnan(), other.isnan()
    )
