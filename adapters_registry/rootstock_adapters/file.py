"""A safetensors file, checked before anybody parses it: header, sizes, offsets, dtypes, values.

Format: https://github.com/huggingface/safetensors#format. Refuses to know what the tensors mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_adapters.errors import ArtifactError

MAX_HEADER_BYTES = 1 << 20
MAX_BASE_HEADER_BYTES = 64 << 20
MAX_TENSORS = 4096
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}


class TensorHeader(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    begin: int  # offsets into the data section, bytes
    end: int


def read_header(path: Path) -> dict[str, TensorHeader]:
    """The header of an operator's own base file; its tensors may be of any dtype and number."""
    with path.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 2 <= size <= MAX_BASE_HEADER_BYTES:
            raise ArtifactError(f"{path.name} is not a safetensors file")
        return _entries(stream.read(size))


def check_tensors(data: bytes) -> dict[str, TensorHeader]:
    """Check an adapter's safetensors bytes whole; return its tensors in the order of their bytes.

    Raises ArtifactError for a truncated, overlapping, oversized, duplicated or non-finite file.
    """
    if len(data) < 8:
        raise ArtifactError("the safetensors file is shorter than its 8-byte length field")
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise ArtifactError(f"the safetensors header is over {MAX_HEADER_BYTES} bytes")
    if size > len(data) - 8:
        raise ArtifactError("the safetensors file is truncated inside its header")
    tensors = _entries(data[8 : 8 + size])
    if len(tensors) > MAX_TENSORS:
        raise ArtifactError(f"the file has over {MAX_TENSORS} tensors")
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].begin))
    _check_offsets(ordered, len(data) - 8 - size)
    _check_finite(ordered, memoryview(data)[8 + size :])
    return ordered


def with_header(data: bytes, tensors: dict[str, TensorHeader]) -> bytes:
    """The checked file `data` with its tensors under the names in `tensors`, bytes untouched."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(
        {
            name: {"dtype": t.dtype, "shape": t.shape, "data_offsets": (t.begin, t.end)}
            for name, t in tensors.items()
        },
        separators=(",", ":"),
    ).encode()
    header += b" " * (-len(header) % 8)  # tensors begin aligned, as the library writes them
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 without duplicate keys, at any depth. Raises ArtifactError."""

    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries = dict(pairs)
        if len(entries) != len(pairs):
            raise ArtifactError("its JSON has duplicate keys")
        return entries

    def no_constant(name: str) -> None:
        raise ArtifactError(f"its JSON has {name}")

    try:
        # Decoded first: json would also guess UTF-16 and UTF-32.
        value = json.loads(
            text.decode(), object_pairs_hook=no_duplicates, parse_constant=no_constant
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError("it is not JSON in UTF-8") from error
    if not isinstance(value, dict):
        raise ArtifactError("its JSON is not an object")
    return value


def _entries(header: bytes) -> dict[str, TensorHeader]:
    try:
        if not header.startswith(b"{"):
            raise ArtifactError("it does not begin with {")
        raw = parse_object(header)
        metadata = raw.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not _texts(metadata.values()):
            raise ArtifactError("its __metadata__ is not a table of texts")
        if not _texts([*raw, *metadata, *metadata.values()]):
            raise ArtifactError("a name is not Unicode")
        return {name: _entry(name, entry) for name, entry in raw.items()}
    except ArtifactError as error:
        raise ArtifactError(f"the safetensors header cannot be read: {error}") from error


def _texts(values: Iterable[Any]) -> bool:
    """Whether all are text that has a UTF-8 form: half a surrogate pair has none."""
    try:
        return all(isinstance(value, str) and value.encode() is not None for value in values)
    except UnicodeEncodeError:
        return False


def _entry(name: str, entry: Any) -> TensorHeader:
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [begin, end], **extra}:
            # type(), because True is an int to isinstance.
            if not extra and all(type(n) is int for n in (*shape, begin, end)):
                return TensorHeader(dtype, tuple(shape), begin, end)
    raise ArtifactError(f"tensor {name[:200]} lacks a dtype, or whole shape and data_offsets")


def _check_offsets(tensors: dict[str, TensorHeader], data_bytes: int) -> None:
    end = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_BYTES:
            raise ArtifactError(f"tensor {name}: dtype {tensor.dtype} (allowed: F32, F16, BF16)")
        if any(n < 1 for n in tensor.shape):
            raise ArtifactError(f"tensor {name}: shape {list(tensor.shape)} is empty")
        if tensor.begin != end:
            raise ArtifactError(f"tensor {name}: its bytes overlap others or leave a hole")
        end = tensor.begin + math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        if tensor.end != end:
            raise ArtifactError(f"tensor {name}: its offsets do not agree with its shape")
    if end != data_bytes:
        raise ArtifactError(f"the header promises {end} bytes, the file has {data_bytes}")


def _check_finite(tensors: dict[str, TensorHeader], data: memoryview) -> None:
    import numpy as np  # only publishing and loading need it, and it is slow to import

    # A float is infinite or NaN exactly when every bit of its exponent is set (IEEE 754).
    exponents = {
        "F32": (np.uint32, 0x7F800000), "F16": (np.uint16, 0x7C00), "BF16": (np.uint16, 0x7F80)
    }  # fmt: skip
    for name, tensor in tensors.items():
        integer, mask = exponents[tensor.dtype]
        bits = np.frombuffer(data[tensor.begin : tensor.end], dtype=integer)
        if ((bits & integer(mask)) == mask).any():
            raise ArtifactError(f"tensor {name} has values that are not finite")
