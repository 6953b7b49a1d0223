"""Sound bytes made a little wrong: flips, cuts, splices, and what breaks parsers, in their places.

Everything is drawn from the `Random` that is handed in: the same one makes the same bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from random import Random
from typing import Any

MOST = 6  # mutations of one input, one on top of the other
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
# Whole JSON values, in bytes: each is some parser's corner.
VALUES: tuple[bytes, ...] = (
    b"0", b"-0", b"-1", b"1", b"2", b"255", b"257", b"4294967296", b"9223372036854775807",
    b"18446744073709551616", b"1e5", b"1e999", b"-1e999", b"0.5", b"1e-400", b"NaN", b"Infinity",
    b"null", b"true", b"false", b"[]", b"{}", b'""', b'" "', b'"\\ud800"', b'"\\udc00\\ud800"',
    b'"\\u0000"', b'"\\u2028"', b'"\\u202e"', b'"\xff"', b'"\xed\xa0\x80"',
    b'"' + b"x" * 300 + b'"', b"9" * 25, b"9" * 5000, b"[" * 50 + b"]" * 50, b"[" * 5000,
    b'{"a":' * 2000, b'"../../etc"',
    b'"http://127.0.0.1/"', b"[[]]", b"[null]", b'[{"a": 1}]', b'{"": {}}', b"[1, 2]", b"[-1, 8]",
)  # fmt: skip
# Pieces that end or begin something.
PIECES: tuple[bytes, ...] = (
    b"\0", b"\r", b"\n", b"\r\n", b"\xef\xbb\xbf", b"\xff\xfe", b"\x80", b"\xc3", b"\xf4\x90\x80",
    b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\\", b"\x1a", b"=1+1|cmd", b"PAR1", b"PK\3\4",
    b"\xff" * 8, b"\x7f" + b"\xff" * 3, b"\0" * 16, "\u2028".encode(), "\U0001f600".encode(),
)  # fmt: skip


def mutated(data: bytes, chance: Random, others: Sequence[bytes] = ()) -> bytes:
    """`data` with one to six mutations; `others` are what it may be spliced with."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, MOST))):
        data = chance.choice(_MUTATIONS)(data, chance, others)
    return data


def mutated_json(text: bytes, chance: Random, fields: Sequence[str]) -> bytes:
    """The object `text` with a few values changed somewhere in it, or fields more or fewer."""
    value = json.loads(text)
    for _ in range(chance.choice((1, 1, 2, 3))):
        holder = chance.choice(list(_holders(value)))
        keys: list[Any] = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if isinstance(holder, dict) and (not keys or chance.random() < 0.3):
            holder[chance.choice(fields)] = _Raw(chance.choice(VALUES))
        elif keys and chance.random() < 0.15:
            del holder[chance.choice(keys)]
        elif keys:
            holder[chance.choice(keys)] = _Raw(chance.choice(VALUES))
    return _written(value)


class _Raw:
    """Bytes that stand for a JSON value, and may not be one."""

    def __init__(self, text: bytes) -> None:
        self.text = text


def _holders(value: Any) -> list[Any]:
    """Every table and list in `value`, itself first."""
    found: list[Any] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, (dict, list)):
            found.append(each)
            waiting += each.values() if isinstance(each, dict) else each
    return found


def _written(value: Any) -> bytes:
    if isinstance(value, _Raw):
        return value.text
    if isinstance(value, dict):
        pairs = (json.dumps(key).encode() + b": " + _written(each) for key, each in value.items())
        return b"{" + b", ".join(pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(_written, value)) + b"]"
    return json.dumps(value).encode()


def _flip(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _byte(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    changed[chance.randrange(len(changed))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 0x22, 0x7B))
    return bytes(changed)


def _cut(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _drop(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    start, end = _span(data, chance)
    return data[:start] + data[end:]


def _repeat(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    start, end = _span(data, chance)
    return data[:end] + data[start:end] * chance.choice((1, 1, 2, 50)) + data[end:]


def _insert(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.choice(PIECES) + data[at:]


def _splice(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    other = chance.choice(others or (data,))
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _value(data: bytes, chance: Random, others: Sequence[bytes]) -> bytes:
    """Another value where a number or a text stands."""
    found = list(chance.choice((NUMBER, STRING)).finditer(data))
    if not found:
        return _insert(data, chance, others)
    match = chance.choice(found)
    return data[: match.start()] + chance.choice(VALUES) + data[match.end() :]


def _span(data: bytes, chance: Random) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, 16, 64, 256)))


_MUTATIONS = (_flip, _flip, _byte, _cut, _drop, _repeat, _insert, _splice, _value, _value, _value)
