"""Safetensors files that are sound or wrong in one or two places; the library is their judge."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import strategies as st
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import DTYPE_BYTES, check_tensors
from safetensors import SafetensorError, deserialize

Draw = st.DrawFn
Entries = dict[str, Any]

names = st.text(max_size=6) | st.sampled_from(["a", "b.c", "\u00e9", "\u2028", "\0", "\U0001f600"])
shapes = st.lists(st.integers(1, 4), max_size=3)
# How a number, or what stands where one should, is written in JSON.
numbers = st.sampled_from(
    ["-0", "0", "1", "4", "8", "1.0", "1e0", "01", "-1", "18446744073709551616", "true", '"1"',
     "null", "[1]", "NaN", "1e999", str(1 << 40), str(1 << 64), str((1 << 64) + 1)]
)  # fmt: skip
values = st.none() | st.text(max_size=3) | st.dictionaries(st.text(max_size=2), st.none())


def read_as_the_library_reads_it(data: bytes) -> bool:
    """Whether we accept `data`. Fails where the library does not, or reads other tensors."""
    try:
        ours = check_tensors(data)
    except ArtifactError:
        return False
    try:
        theirs = dict(deserialize(data))
    except SafetensorError as error:
        pytest.fail(f"accepted by us, refused by the library: {error}")
    section = data[8 + int.from_bytes(data[:8], "little") :]
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert list(tensor.shape) == list(theirs[name]["shape"])
        assert tensor.dtype == theirs[name]["dtype"]
        assert section[tensor.begin : tensor.end] == bytes(theirs[name]["data"])
    return True


@st.composite
def files(draw: Draw) -> bytes:
    """About every second one is sound."""
    entries, data = draw(_laid_out())
    faults = draw(st.lists(st.sampled_from(_FAULTS), max_size=2))
    for fault in faults:
        data = fault(draw, entries, data)
    text = json.dumps(
        entries, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, None, 1]))
    )
    if draw(st.integers(0, 5)) == 0:
        text = draw(_rewritten(text))
    header = text.encode("utf-8", "surrogatepass") + b" " * draw(st.integers(0, 8))
    size = len(header) + draw(st.sampled_from([0] * 12 + [-1, 1, 8]))
    return size.to_bytes(8, "little") + header + data


@st.composite
def _laid_out(draw: Draw) -> tuple[Entries, bytes]:
    """Tensors whose bytes follow one another, the header in any order, each filled with a byte."""
    tensors = draw(st.dictionaries(names, st.tuples(st.sampled_from([*DTYPE_BYTES]), shapes)))
    placed: list[tuple[str, Any]] = []
    data = b""
    for name, (dtype, shape) in tensors.items():
        begin = len(data)
        # Below 0x40 no exponent is all ones, whatever the dtype: every value is finite.
        filling = bytes([draw(st.integers(0, 0x3F))])
        data += filling * (math.prod(shape) * DTYPE_BYTES[dtype])
        offsets = [begin, len(data)]
        placed.append((name, {"dtype": dtype, "shape": shape, "data_offsets": offsets}))
    entries = dict(draw(st.permutations(placed)))
    if draw(st.integers(0, 3)) == 0:
        entries["__metadata__"] = {"format": "pt"}
    return entries, data


def _a_field(draw: Draw, entries: Entries, data: bytes) -> bytes:
    tensor = _one(draw, entries)
    if tensor is not None:
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "url"]))
        other = st.sampled_from(["F32", "F16", "BF16", "F64", "f32", [], [1], [0], [2, 2], [0, 4]])
        tensor[field] = draw(other | values)
    return data


def _no_field(draw: Draw, entries: Entries, data: bytes) -> bytes:
    tensor = _one(draw, entries)
    if tensor:
        del tensor[draw(st.sampled_from(sorted(tensor)))]
    return data


def _moved(draw: Draw, entries: Entries, data: bytes) -> bytes:
    tensor = _one(draw, entries)
    if tensor is not None:
        by = draw(st.sampled_from([-4, -1, 1, 4]))
        offsets = tensor.get("data_offsets")
        if isinstance(offsets, list):
            tensor["data_offsets"] = [by + n for n in offsets if isinstance(n, int)]
    return data


def _again(draw: Draw, entries: Entries, data: bytes) -> bytes:
    """Another name for the same bytes."""
    tensor = _one(draw, entries)
    if tensor is not None:
        entries[draw(names)] = tensor
    return data


def _metadata(draw: Draw, entries: Entries, data: bytes) -> bytes:
    entries["__metadata__"] = draw(values | st.dictionaries(names, names | st.integers()))
    return data


def _length(draw: Draw, entries: Entries, data: bytes) -> bytes:
    return data[: -draw(st.integers(1, 4))] if draw(st.booleans()) else data + b"\0"


def _one(draw: Draw, entries: Entries) -> Entries | None:
    tables = [value for value in entries.values() if isinstance(value, dict)]
    return draw(st.sampled_from(tables)) if tables else None


@st.composite
def _rewritten(draw: Draw, text: str) -> str:
    """One number of the header written another way, or one of its characters."""
    digits = [place for place, character in enumerate(text) if character.isdigit()]
    if digits and draw(st.booleans()):
        place = draw(st.sampled_from(digits))
        return text[:place] + draw(numbers) + text[place + 1 :]
    place = draw(st.integers(0, len(text)))
    return (
        text[:place] + draw(st.sampled_from([" ", "\n", "\t", "\f", "\0", ",", '"'])) + text[place:]
    )


_FAULTS = (_a_field, _no_field, _moved, _again, _metadata, _length)
