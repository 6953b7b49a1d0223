"""A safetensors file, checked before anybody parses it: header, sizes, offsets, dtypes, values.

Format: https://github.com/huggingface/safetensors#format. Refuses to know what the tensors mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rootstock_adapters.errors import ArtifactError

MAX_HEADER_BYTES = 1 << 20
MAX_BASE_HEADER_BYTES = 64 << 20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
MAX_LENGTH = 1 << 40  # of a dimension, and of a file: beyond, sizes are lies
MAX_DIGITS = 20
DTYPE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
# What else is found under the name of a safetensors file: (offset, first bytes, what it is).
_OTHERS = (
    (0, b"PK\x03\x04", "a zip archive, as torch.save writes"),
    (0, b"\x80", "a pickle"),
    (0, b"\x1f\x8b", "compressed with gzip"),
    (0, b"BZh", "compressed with bzip2"),
    (0, b"\xfd7zXZ", "compressed with xz"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"Rar!", "a rar archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"GGUF", "a GGUF file"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"\x93NUMPY", "a NumPy file"),
    (0, b"version https://git-lfs", "a git-lfs pointer: run git lfs pull, and what comes then"),
)


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
    size = _header_size(data)
    tensors = _entries(data[8 : 8 + size])
    if len(tensors) > MAX_TENSORS:
        raise ArtifactError(f"the file has {len(tensors)} tensors, and may have {MAX_TENSORS}")
    ordered = dict(sorted(tensors.items(), key=lambda item: item[1].begin))
    _check_offsets(ordered, len(data) - 8 - size)
    _check_finite(ordered, memoryview(data)[8 + size :])
    return ordered


def with_header(
    data: bytes, tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The checked file `data` with its tensors under the names in `tensors`, bytes untouched."""
    size = int.from_bytes(data[:8], "little")
    return _header(tensors, metadata) + data[8 + size :]


def pack(
    tensors: Mapping[str, tuple[TensorHeader, bytes]], metadata: Mapping[str, str] | None = None
) -> bytes:
    """A file of `tensors`, each with its own bytes, in the order given."""
    placed, end = {}, 0
    for name, (header, own) in tensors.items():
        placed[name] = header._replace(begin=end, end=end + len(own))
        end += len(own)
    return _header(placed, metadata) + b"".join(own for _, own in tensors.values())


def unpack(data: bytes) -> dict[str, tuple[TensorHeader, bytes]]:
    """The tensors of the file `data`, checked whole, each with its own bytes."""
    tensors = check_tensors(data)
    start = 8 + int.from_bytes(data[:8], "little")
    return {n: (t, data[start + t.begin : start + t.end]) for n, t in tensors.items()}


def metadata_of(data: bytes) -> dict[str, str]:
    """The texts in the header of the file `data` that are no tensors. Raises ArtifactError."""
    size = _header_size(data)
    return _metadata(parse_object(data[8 : 8 + size]))


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8, at any depth without duplicate keys and numbers that are not finite.

    Raises ArtifactError, naming the key.
    """

    def sound(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for key, value in pairs:
            _check_pair(key, value, key in entries)
            entries[key] = value
        return entries

    def whole(digits: str) -> float:
        if digits == "-0":
            return -0.0  # what else reads these headers knows it as a float, and so no size
        # Python reads any number of digits, in a time that grows with their square.
        return int(digits) if len(digits) <= MAX_DIGITS else math.inf

    try:
        # Decoded first: json would also guess UTF-16 and UTF-32.
        value = json.loads(text.decode(), object_pairs_hook=sound, parse_int=whole)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"it is not JSON in UTF-8{_where(error)}") from error
    if not isinstance(value, dict):
        raise ArtifactError("its JSON is not an object")
    return value


def _check_pair(key: str, value: Any, again: bool) -> None:
    """One key and what it says, lists of lists included; objects in them have been here before."""
    shown = key[:80]
    if again:
        raise ArtifactError(f"its JSON has duplicate keys: {shown} stands there twice")
    if not _texts((key,)):
        raise ArtifactError(f"its JSON has a key that is not Unicode: {shown}")
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += each
        elif isinstance(each, float) and not math.isfinite(each):
            raise ArtifactError(f"its JSON has a number at {shown} that is not finite")
        elif isinstance(each, str) and not _texts((each,)):
            raise ArtifactError(f"its JSON has a text at {shown} that is not Unicode")


def _where(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return ": it is nested too deep"
    if isinstance(error, json.JSONDecodeError):
        return f" (line {error.lineno}, column {error.colno})"
    return ""


def _header_size(data: bytes) -> int:
    """How long the header of the file `data` is. Raises ArtifactError where it cannot be so."""
    for offset, magic, what in _OTHERS:
        if data.startswith(magic, offset):
            # A header's length could begin so too; then an opening brace follows it.
            if data[8:9] == b"{":
                continue
            raise ArtifactError(
                f"it is not a safetensors file but {what}: save the adapter again as safetensors"
            )
    if len(data) < 8:
        raise ArtifactError("the safetensors file is shorter than its 8-byte length field")
    size = int.from_bytes(data[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise ArtifactError(f"the safetensors header is over {MAX_HEADER_BYTES} bytes")
    if size > len(data) - 8:
        raise ArtifactError("the safetensors file is truncated inside its header")
    return size


def _header(tensors: Mapping[str, TensorHeader], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        offsets = (tensor.begin, tensor.end)
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin aligned, as the library writes them
    return len(header).to_bytes(8, "little") + header


def _entries(header: bytes) -> dict[str, TensorHeader]:
    try:
        if not header.startswith(b"{"):
            raise ArtifactError("it does not begin with {")
        raw = parse_object(header)
        _metadata(raw)
        raw.pop("__metadata__", None)
        return {name: _entry(name, entry) for name, entry in raw.items()}
    except ArtifactError as error:
        raise ArtifactError(f"the safetensors header cannot be read: {error}") from error


def _metadata(raw: Mapping[str, Any]) -> dict[str, str]:
    metadata = raw.get("__metadata__", {})
    if not isinstance(metadata, dict) or not _texts(metadata.values()):
        raise ArtifactError("its __metadata__ is not a table of texts")
    return metadata


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
            whole = all(type(n) is int and n < MAX_LENGTH for n in (*shape, begin, end))
            if not extra and whole and len(shape) <= MAX_DIMENSIONS:
                return TensorHeader(dtype, tuple(shape), begin, end)
    raise ArtifactError(f"tensor {name[:200]} lacks a dtype, or whole shape and data_offsets")


def _check_offsets(tensors: dict[str, TensorHeader], data_bytes: int) -> None:
    end = 0
    for name, tensor in tensors.items():
        what = f"tensor {name[:200]}"
        if tensor.dtype not in DTYPE_BYTES:
            allowed = ", ".join(DTYPE_BYTES)
            raise ArtifactError(f"{what}: dtype {tensor.dtype[:40]!r} (allowed: {allowed})")
        if any(n < 1 for n in tensor.shape):
            raise ArtifactError(f"{what}: shape {list(tensor.shape)} is empty")
        if tensor.begin != end:
            raise ArtifactError(f"{what}: its bytes overlap others or leave a hole")
        end = tensor.begin + math.prod(tensor.shape) * DTYPE_BYTES[tensor.dtype]
        if tensor.end != end:
            raise ArtifactError(f"{what}: its data_offsets do not agree with its shape")
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
            raise ArtifactError(f"tensor {name[:200]} has values that are not finite")
