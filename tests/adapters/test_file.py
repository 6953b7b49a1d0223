"""Hostile safetensors: what we accept, the library loads identically; the rest is refused."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.file import (
    MAX_HEADER_BYTES,
    MAX_TENSORS,
    check_tensors,
    parse_object,
    with_header,
)
from safetensors.numpy import load, save

from tests.adapters.nearly_sound import files, read_as_the_library_reads_it

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.ones((4,), dtype=np.float16),
}


def raw(header: object, data: bytes = b"", *, text: str | None = None) -> bytes:
    encoded = (json.dumps(header) if text is None else text).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def entry(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_sound_file_is_described_in_the_order_of_its_bytes() -> None:
    found = check_tensors(save(TENSORS))
    assert {name: (t.dtype, t.shape) for name, t in found.items()} == {
        "a": ("F32", (2, 3)),
        "b": ("F16", (4,)),
    }
    assert [t.begin for t in found.values()] == sorted(t.begin for t in found.values())


def test_every_truncation_is_refused() -> None:
    data = save(TENSORS)
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            check_tensors(data[:length])


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(ArtifactError, match="the header promises"):
        check_tensors(save(TENSORS) + b"\0")


REFUSED = {
    "overlap": raw({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "hole": raw({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20)),
    "hole at the start": raw({"a": entry([2], 4, 12)}, bytes(12)),
    "two names for the same bytes": raw({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, bytes(8)),
    "end before begin": raw({"a": entry([2], 8, 0)}, bytes(8)),
    "negative offset": raw({"a": entry([2], -8, 0)}, bytes(8)),
    "shape larger than its bytes": raw({"a": entry([3], 0, 8)}, bytes(8)),
    "shape that overflows 64 bits": raw({"a": entry([2**62, 4, 4], 0, 8)}, bytes(8)),
    "negative shape": raw({"a": entry([-1, -2], 0, 8)}, bytes(8)),
    "empty tensor": raw({"a": entry([0], 0, 0)}),
    "shape of floats": raw({"a": entry([2.0], 0, 8)}, bytes(8)),
    "shape of texts": raw({"a": entry(["2"], 0, 8)}, bytes(8)),
    "shape of booleans": raw({"a": entry([True], 0, 4)}, bytes(4)),
    "three offsets": raw({"a": entry([1], 0, 4) | {"data_offsets": [0, 4, 4]}}, bytes(4)),
    "integer dtype": raw({"a": entry([2], 0, 8, "I32")}, bytes(8)),
    "unknown dtype": raw({"a": entry([2], 0, 8, "F33")}, bytes(8)),
    "missing dtype": raw({"a": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "unknown field": raw({"a": entry([2], 0, 8) | {"url": "http://x"}}, bytes(8)),
    "list for a header": raw([1]),
    "null for a header": raw(None),
    "null for a tensor": raw({"a": None}),
    "metadata that is no table": raw({"__metadata__": 3, "a": entry([1], 0, 4)}, bytes(4)),
    "metadata of numbers": raw({"__metadata__": {"x": 3}, "a": entry([1], 0, 4)}, bytes(4)),
    "half a surrogate pair": raw({"\ud800": entry([1], 0, 4)}, bytes(4)),
    "header of spaces": raw(None, text="        "),
    "header that begins with a space": raw(None, text=' {}'),
    "deeply nested header": raw(None, text="[" * 100_000),
    "deeply nested metadata": raw(None, text='{"__metadata__":' + '{"a":' * 100_000),
    "NaN in the header": raw(None, text='{"a": NaN}'),
    "a number of 10,000 digits": raw(None, text='{"a": ' + "9" * 10_000 + "}"),
    "header in UTF-16": (2).to_bytes(8, "little") + "{}".encode("utf-16-le")[:2],
    "empty": b"",
    "length only": bytes(8),
    "length beyond the file": (100).to_bytes(8, "little") + b"{}",
    "length of 2^64-1": b"\xff" * 8 + b"{}",
    "header over the limit": raw(None, text="{" + " " * MAX_HEADER_BYTES + "}"),
    "too many tensors": raw(
        {str(i): entry([1], 4 * i, 4 * i + 4) for i in range(MAX_TENSORS + 1)},
        bytes(4 * MAX_TENSORS + 4),
    ),
    "pickle": pickle.dumps({"a": [1.0, 2.0]}),
    "GGUF": b"GGUF" + bytes(64),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str) -> None:
    with pytest.raises(ArtifactError):
        check_tensors(REFUSED[what])


def test_a_torch_archive_under_the_name_is_refused() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"a": 1}))
    with pytest.raises(ArtifactError):
        check_tensors(archive.getvalue())


def test_utf16_header_is_refused_whatever_json_would_guess() -> None:
    text = json.dumps({"a": entry([1], 0, 4)}).encode("utf-16")
    with pytest.raises(ArtifactError):
        check_tensors(len(text).to_bytes(8, "little") + text + bytes(4))


@pytest.mark.parametrize(
    "text",
    [
        f'{{"a": {json.dumps(entry([1], 0, 4))}, "a": {json.dumps(entry([1], 0, 4))}}}',
        '{"a": {"dtype": "F32", "dtype": "F16", "shape": [1], "data_offsets": [0, 4]}}',
    ],
)  # fmt: skip
def test_duplicate_keys_are_refused_at_any_depth(text: str) -> None:
    with pytest.raises(ArtifactError, match="duplicate keys"):
        check_tensors(raw(None, bytes(4), text=text))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_tensor_name(dtype: type, value: float) -> None:
    weights = np.zeros((3, 5), dtype)
    weights[2, 4] = value
    with pytest.raises(ArtifactError, match=r"tensor bad has values that are not finite"):
        check_tensors(save({"good": np.ones(3, dtype), "bad": weights}))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
def test_bf16_infinities_and_nans_are_refused(bits: int) -> None:
    data = np.array([0x3F80, bits], np.uint16).tobytes()
    with pytest.raises(ArtifactError, match="not finite"):
        check_tensors(raw({"a": entry([2], 0, 4, "BF16")}, data))


def test_the_largest_finite_values_are_accepted() -> None:
    check_tensors(save({"a": np.array([np.finfo(np.float32).max, -0.0, 1e-45], np.float32)}))


def test_new_names_leave_the_values_untouched() -> None:
    data = save(TENSORS)
    renamed = with_header(data, {f"x.{n}": t for n, t in check_tensors(data).items()})
    loaded = load(renamed)
    assert loaded.keys() == {"x.a", "x.b"}
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(loaded[f"x.{name}"], tensor)


@pytest.mark.parametrize("text", [b"\xff", b"[]", b"{", b'{"a": Infinity}', b"\xef\xbb\xbf{}", b""])
def test_what_is_no_plain_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(ArtifactError):
        parse_object(text)


# The library is the judge: whatever we accept, it loads, and as the same tensors.


def test_the_library_agrees_on_a_sound_file() -> None:
    assert read_as_the_library_reads_it(save(TENSORS))


def test_every_flipped_bit_of_the_header_is_refused_or_read_as_the_library_reads_it() -> None:
    data = save(TENSORS)
    for position in range(8 + int.from_bytes(data[:8], "little")):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            read_as_the_library_reads_it(bytes(flipped))


names = st.text(max_size=8)
numbers = st.one_of(st.integers(-2, 9), st.integers(), st.floats(), st.booleans(), st.none())
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "I8", "f32"]) | st.text(max_size=4),
        "shape": st.lists(numbers, max_size=3),
        "data_offsets": st.lists(numbers, min_size=2, max_size=2),
    },
    optional={"extra": st.none()},
)
headers = st.dictionaries(names | st.just("__metadata__"), entries | st.dictionaries(names, names))


@settings(max_examples=300, deadline=None)
@given(headers, st.integers(0, 64))
def test_no_header_is_accepted_that_the_library_refuses(header: object, size: int) -> None:
    read_as_the_library_reads_it(raw(header, bytes(size)))


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda n: n != "__metadata__"),
        st.tuples(
            st.sampled_from([np.float32, np.float16]),
            st.lists(st.integers(1, 4), max_size=3),
        ),
        max_size=5,
    )
)
def test_every_sound_file_the_library_writes_is_accepted(
    tensors: dict[str, tuple[type, list[int]]],
) -> None:
    data = save({name: np.ones(shape, dtype) for name, (dtype, shape) in tensors.items()})
    assert read_as_the_library_reads_it(data)


@settings(max_examples=400, deadline=None)
@given(files())
def test_what_is_accepted_of_nearly_sound_files_is_what_the_library_reads(data: bytes) -> None:
    read_as_the_library_reads_it(data)


@pytest.mark.parametrize("number", ["-0", "0.0", "0e0", "00"])
def test_a_number_that_the_library_does_not_read_is_refused(number: str) -> None:
    text = json.dumps({"a": entry([1], 0, 4)}).replace("[0,", f"[{number},")
    with pytest.raises(ArtifactError):
        check_tensors(raw(None, bytes(4), text=text))
