"""Broken and hostile bytes under the name of an adapter's weights: each is refused, by name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import random
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry
from rootstock_registry.errors import CorruptBlob, InvalidArtifact, RegistryError, WrongBase
from safetensors.numpy import save

LAYERS, WIDTH, RANK = 2, 8, 2
LINEARS = [f"layers.{n}.self_attn.{name}" for n in range(LAYERS) for name in ("q_proj", "v_proj")]
CARD = BaseCard(
    name="tiny", fingerprint="sha256:" + "1" * 64, model_type="llama", task="generate",
    hidden_size=WIDTH, layers=LAYERS, vocab_size=64, context_length=32, pooling="last",
    normalize=True, linears=dict.fromkeys(LINEARS, (WIDTH, WIDTH)),
    parameters={
        "embed_tokens.weight": (64, WIDTH),
        **{f"{module}.weight": (WIDTH, WIDTH) for module in LINEARS},
    },
)  # fmt: skip
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "tiny", "r": RANK,
    "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"], "bias": "none",
}  # fmt: skip
PREFIX = "base_model.model.model."
A, B = f"{PREFIX}{LINEARS[0]}.lora_A.weight", f"{PREFIX}{LINEARS[0]}.lora_B.weight"
Tensors = dict[str, np.ndarray[Any, Any]]


def sound() -> Tensors:
    draw = np.random.default_rng(0).standard_normal
    shapes = {"lora_A": (RANK, WIDTH), "lora_B": (WIDTH, RANK)}
    return {
        f"{PREFIX}{module}.{leaf}.weight": draw(shape).astype(np.float32)
        for module in LINEARS
        for leaf, shape in shapes.items()
    }


GOOD = save(sound())
HEADER = int.from_bytes(GOOD[:8], "little")
Entries = dict[str, Any]


def framed(header: bytes, data: bytes = GOOD[8 + HEADER :]) -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entries(change: Callable[[Entries], Any], data: bytes = GOOD[8 + HEADER :]) -> bytes:
    """The sound file with another header."""
    table: Entries = json.loads(GOOD[8 : 8 + HEADER])
    change(table)
    return framed(json.dumps(table).encode(), data)


def entry(name: str = A, **fields: Any) -> bytes:
    return entries(lambda table: table[name].update(fields))


def tensors(change: Callable[[Tensors], Any]) -> bytes:
    table = sound()
    change(table)
    return save(table)


def value(number: float, dtype: Any = np.float32) -> bytes:
    table = {name: tensor.astype(dtype) for name, tensor in sound().items()}
    table[B][WIDTH - 1, RANK - 1] = number
    return save(table)


def replaced(shape: tuple[int, ...], name: str = A, dtype: Any = np.float32) -> bytes:
    return tensors(lambda table: table.update({name: np.ones(shape, dtype)}))


def flipped(position: int, bit: int, data: bytes = GOOD) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1 << bit
    return bytes(changed)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("adapter_model.safetensors", GOOD)
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("../../adapter_model.safetensors")
        member.size = len(GOOD)
        archive.addfile(member, io.BytesIO(GOOD))
    return file.getvalue()


def torch_saved(**options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(t) for name, t in sound().items()}, file, **options)
    return file.getvalue()


class Opens:
    """What a pickle would do if anybody read it."""

    def __reduce__(self) -> Any:
        return (open, ("/tmp/rootstock-was-here", "w"))


def moved(by: int) -> Callable[[Entries], None]:
    def change(table: Entries) -> None:
        table[B]["data_offsets"] = [n + by for n in table[B]["data_offsets"]]

    return change


def swap(table: Entries) -> None:
    table[A]["data_offsets"], table[B]["data_offsets"] = (
        table[B]["data_offsets"], [table[A]["data_offsets"][0], 4],
    )  # fmt: skip


def renamed(new: str) -> bytes:
    return entries(lambda table: table.update({new: table.pop(A)}))


def added(name: str, shape: tuple[int, ...] = (RANK, WIDTH)) -> bytes:
    return tensors(lambda table: table.update({name: np.ones(shape, np.float32)}))


def text(header: str) -> bytes:
    return framed(header.encode("utf-8", "surrogatepass"))


WHOLE = json.dumps(json.loads(GOOD[8 : 8 + HEADER]))
OVERFLOWS = {
    "2^62 x 4": [1 << 62, 4], "2^63": [1 << 63], "2^64": [1 << 64],
    "2^32 x 2^32": [1 << 32] * 2,
    "2^64+16": [(1 << 64) + 16], "-2 x -8": [-RANK, -WIDTH],
    "9 dimensions": [1] * 7 + [RANK, WIDTH],
    "100,000 dimensions": [4_000_000_000] * 80_000, "0 x 8": [0, WIDTH], "one dimension": [16],
    "16 x 1": [16, 1], "8 x 2": [WIDTH, RANK], "1e1": [2.0, 8], "text": ["2", 8],
    "true": [True, 16],
    "null": [None, 16], "nested": [[2, 8]], "NaN": [float("nan"), 8], "inf": [float("inf"), 8],
    "none at all": [],
}  # fmt: skip
NAMES = {
    "another prefix": A.removeprefix("base_model."), "a path": "../../etc/passwd",
    "an absolute path": "/etc/passwd", "a leaf of IA3": A.replace("lora_A.weight", "ia3_l"),
    "a bias of LoRA": A.replace("weight", "bias"), "a zero width space": A + "\u200b",
    "right to left": "\u202e" + A, "a Cyrillic a": A.replace("a", "\u0430", 1), "NUL": A + "\0",
    "a colour": f"\x1b[31m{A}", "a line break": A + "\n", "half a surrogate": A + "\ud800",
    "nothing": "", "a megabyte": "x" * 900_000, "an address": "https://example.org/lora_A.weight",
    "a class": "base_model.model.model.__class__.lora_A.weight", "lm_head": "lm_head.weight",
    "a classifier": "base_model.model.score.weight",
}  # fmt: skip
STRANGERS = {
    "layer": f"{PREFIX}layers.7.self_attn.q_proj.lora_A.weight",
    "linear": f"{PREFIX}layers.0.self_attn.k_proj.lora_A.weight",
    "architecture": "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
    "negative layer": f"{PREFIX}layers.-1.self_attn.q_proj.lora_A.weight",
    "full-width layer": f"{PREFIX}layers.\uff10.self_attn.q_proj.lora_A.weight",
}
DTYPES = ["F64", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "f32", "F32 ", "", "torch.float32"]


Case = tuple[str, bytes, str]  # what it is, the file's bytes, the words of its error


def broken() -> Iterator[Case]:
    """What is no sound file on any base."""
    for at in sorted({*range(0, 24, 3), *np.linspace(24, len(GOOD) - 1, 34, dtype=int).tolist()}):
        yield f"cut at {at}", GOOD[:at], "shorter|truncated|promises"
    for number in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float16):
            data = value(number, dtype)
            yield f"{number} in {dtype.__name__}", data, f"tensor {B} has values"
    for bits in (0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7F800000):
        yield f"float of bits {bits:x}", GOOD[:-4] + struct.pack("<I", bits), "not finite"
    for dtype in DTYPES:
        yield f"dtype {dtype!r}", entry(dtype=dtype), "tensor .* dtype"
    yield from lengths()
    yield from json_headers()
    yield from offsets()
    yield from archives()
    for name in (A, B):
        data = tensors(lambda t, n=name: t.pop(n))
        yield f"without {name[-13:]}", data, "has no lora_"
    yield "without a module", tensors(lambda t: (t.pop(A), t.pop(B))), "has no weights"
    yield "one module alone", save({A: sound()[A], B: sound()[B]}), "has no weights"
    other = A.replace("model.model.model", "model.model")
    yield "one module twice", added(other), "two tensors belong to one module"


def foreign() -> Iterator[Case]:
    """What is a sound file, and not of this base."""
    for what, name in STRANGERS.items():
        yield f"tensor of another {what}", added(name), "no such linear"
    for shape in (
        (RANK + 1, WIDTH), (RANK, WIDTH * 2), (1, WIDTH), (WIDTH, RANK), (RANK * WIDTH,),
        (RANK, WIDTH, 1), (1, RANK, WIDTH), (), (257, WIDTH), (RANK, 1),
    ):  # fmt: skip
        yield f"lora_A of shape {shape}", replaced(shape), "tensor .* has shape .* expected"
    whole = f"{PREFIX}embed_tokens.weight"
    yield "an embedding of another size", added(whole, (65, WIDTH)), "embed_tokens.* shape"


def either() -> Iterator[Case]:
    """What may read as the one or as the other."""
    draw = random.Random(0)
    for at in sorted(draw.sample(range(8 + HEADER), 60)):
        data = flipped(at, draw.randrange(8))
        yield f"header byte {at} flipped", data, "tensor|module|header|key|truncated|has"
    for what, shape in OVERFLOWS.items():
        yield f"shape {what}", entry(shape=shape), "tensor .* shape|number at shape"
    for what, name in NAMES.items():
        yield f"tensor named {what}", renamed(name), "tensor|key|header is over"
    for leaf in ("lora_magnitude_vector", "lora_embedding_A", "base_layer.bias", "lora_C.weight"):
        data = added(f"{PREFIX}{LINEARS[0]}.{leaf}", (WIDTH,))
        yield f"a {leaf} too many", data, "module|tensor"


def lengths() -> Iterator[Case]:
    sizes = [
        0, 1, 7, HEADER - 1, HEADER + 1, HEADER + 8, len(GOOD), 1 << 20, (1 << 20) + 1,
        100_000_000, 1 << 31, 1 << 32, 1 << 62, 1 << 63, (1 << 64) - 1,
    ]  # fmt: skip
    for size in sizes:
        data = size.to_bytes(8, "little") + GOOD[8:]
        yield f"header length {size}", data, "header|file has"
    yield "header length big-endian", HEADER.to_bytes(8, "big") + GOOD[8:], "header"
    many = {
        f"t{n}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * n, 4 * n + 4]}
        for n in range(5000)
    }
    yield "5,000 tensors", framed(json.dumps(many).encode(), bytes(20_000)), "5000 tensors"
    tiny = json.dumps({str(n): {} for n in range(90_000)}).encode()
    yield "90,000 empty entries", framed(tiny), "header|tensor"
    yield "a megabyte of spaces", framed(b"{" + b" " * (1 << 20) + b"}"), "header is over"
    for depth in (500, 5_000, 200_000):
        nested = '{"a":' + "[" * depth + "]" * depth + "}"
        yield f"lists nested {depth} deep", text("[" * depth), "begin with"
        yield f"tables nested {depth} deep", text('{"a":' * depth), "JSON"
        yield f"lists in a table {depth} deep", text(nested), "JSON|tensor a"


def json_headers() -> Iterator[Case]:
    twice = WHOLE[:-1] + f', "{A}": {json.dumps(json.loads(WHOLE)[A])}}}'
    yield "a tensor twice", text(twice), "duplicate keys: base_model"
    twice = WHOLE.replace('"dtype":', '"dtype": "F16", "dtype":', 1)
    yield "a field twice", text(twice), "duplicate keys: dtype"
    for what, header in {
        "empty": "", "null": "null", "a list": "[]", "a text": '"x"', "a number": "1",
        "no tensors": "{}", "single quotes": "{'a': 1}", "a comma too many": '{"a": 1,}',
        "a comment": '{/**/"a": 1}', "a byte order mark": "\ufeff" + WHOLE,
        "trailing text": WHOLE + "x", "two objects": WHOLE + WHOLE, "NaN": '{"a": NaN}',
        "half a surrogate": '{"\ud800": 1}', "Infinity": '{"a": -Infinity}',
        "1e999": '{"a": 1e999}', "100,000 digits": '{"a": ' + "9" * 100_000 + "}",
        "a link in metadata": WHOLE[:-1] + ', "__metadata__": {"url": ["http://x"]}}',
        "metadata of half a surrogate": WHOLE[:-1] + ', "__metadata__": {"a": "\\ud800"}}',
        "metadata twice": WHOLE[:-1] + ', "__metadata__": {}, "__metadata__": {}}',
    }.items():  # fmt: skip
        yield f"header that is {what}", text(header), "header|weights|JSON"
    for what, code in {"UTF-16": "utf-16", "UTF-32": "utf-32", "Latin-1": "latin-1"}.items():
        header = WHOLE.replace("q_proj", "q_pröj", 1)
        yield f"header in {what}", framed(header.encode(code)), "header"


def offsets() -> Iterator[Case]:
    for by in (-4, -1, 1, 4, 64, -(1 << 40), 1 << 62):
        yield f"offsets moved by {by}", entries(moved(by)), "tensor"
    yield "offsets exchanged", entries(swap), "overlap|data_offsets"
    for what, pair in {
        "backwards": [64, 0], "three": [0, 1, 64], "one": [64], "texts": ["0", "64"],
        "floats": [0.0, 64.0], "booleans": [False, 64], "none": None,
        "the whole file": [0, 1 << 39], "of another": [64, 128],
    }.items():  # fmt: skip
        yield f"offsets {what}", entry(data_offsets=pair), "tensor"
    yield "a byte too many", GOOD + b"\0", "promises"
    yield "another file behind it", GOOD + zipped(), "promises"
    yield "an unknown field", entry(url="https://example.org"), "tensor"
    for field in ("dtype", "shape", "data_offsets"):
        yield f"no {field}", entries(lambda t, f=field: t[A].pop(f)), "tensor"


def archives() -> Iterator[Case]:
    plain = {name: tensor.tolist() for name, tensor in sound().items()}
    for protocol in range(6):
        yield f"pickle {protocol}", pickle.dumps(Opens(), protocol), "safetensors"
    yield "pickle of numbers", pickle.dumps(plain), "a pickle"
    yield "torch.save", torch_saved(), "zip archive, as torch.save"
    yield "old torch.save", torch_saved(_use_new_zipfile_serialization=False), "a pickle"
    yield "zip", zipped(), "zip archive"
    yield "tar", tarred(), "tar archive"
    yield "gzip", gzip.compress(GOOD), "gzip"
    yield "gzip of a megabyte's zeros", gzip.compress(bytes(1 << 20)), "gzip"
    for what, magic in {
        "GGUF": b"GGUF\x03\0\0\0", "HDF5": b"\x89HDF\r\n\x1a\n", "NumPy": b"\x93NUMPY\x01\0",
        "xz": b"\xfd7zXZ\0\0\x04", "7z": b"7z\xbc\xaf\x27\x1c\0\4", "bzip2": b"BZh91AY&",
    }.items():  # fmt: skip
        yield f"{what} file", magic + bytes(256), what
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64
    yield "git-lfs pointer", pointer, "git lfs pull"
    yield "web page", b"<!DOCTYPE html><title>404</title>" + bytes(99), "header"
    yield "program", b"\x7fELF\x02\x01\x01\0" + bytes(256), "header"
    yield "JSON", json.dumps(plain).encode(), "header"
    yield "nothing", b"", "shorter"
    yield "zeros", bytes(4096), "header"
    yield "ones", b"\xff" * 4096, "header"


CORPUS = [
    pytest.param(data, errors, words, id=what)
    for errors, cases in (
        ((InvalidArtifact,), broken()),
        ((WrongBase,), foreign()),
        ((InvalidArtifact, WrongBase), either()),
    )
    for what, data, words in cases
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "home"


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Registry]:
    registry = Registry(home)
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG))
    return folder


def test_the_corpus_is_large_and_every_file_in_it_is_another() -> None:
    assert len({case.id for case in CORPUS}) == len(CORPUS) >= 250


def test_the_file_that_they_were_made_of_is_taken(stored: Stored) -> None:
    registry, digest, _ = stored
    assert len(registry.blobs.get(digest)) > len(GOOD) - HEADER


@pytest.mark.parametrize(("data", "errors", "words"), CORPUS)
def test_refused_at_once_by_name_and_without_a_trace(
    registry: Registry, home: Path, folder: Path, data: bytes,
    errors: tuple[type[RegistryError], ...], words: str,
) -> None:  # fmt: skip
    (folder / "adapter_model.safetensors").write_bytes(data)
    started = time.thread_time()
    with pytest.raises(errors, match=words) as caught:
        registry.import_peft("local", "triage", folder, CARD, promote="prod")
    assert time.thread_time() - started < 1
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
    assert registry.adapters("local") == registry.versions("local", "triage") == []
    assert [path for path in (home / "blobs").rglob("*") if path.is_file()] == []
    assert not Path("/tmp/rootstock-was-here").exists()


@pytest.mark.parametrize("at", np.linspace(8 + HEADER, len(GOOD) - 1, 40, dtype=int).tolist())
def test_stored_weights_of_which_a_bit_flips_are_refused_when_they_are_read(
    stored: Stored, at: int
) -> None:
    registry, digest, file = stored
    data = file.read_bytes()
    assert registry.blobs.get(digest) == data
    at += len(data) - len(GOOD)
    file.write_bytes(flipped(at, at % 8, data))
    try:
        with pytest.raises(CorruptBlob, match=digest):
            registry.blobs.get(digest)
    finally:
        file.write_bytes(data)


Stored = tuple[Registry, str, Path]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[Stored]:
    home = tmp_path_factory.mktemp("stored")
    (folder / "adapter_model.safetensors").write_bytes(GOOD)
    registry = Registry(home)
    [part] = registry.import_peft("local", "triage", folder, CARD).manifest.parts
    [file] = [f for f in home.rglob("*") if f.is_file() and part.blob.endswith(f.name)]
    file.chmod(0o644)
    yield registry, part.blob, file
    registry.close()
