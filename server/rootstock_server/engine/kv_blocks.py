"""Who owns which block of the KV cache, and which blocks still hold a prefix worth keeping.

Refuses to know how keys and values are computed; a full block is known by its key alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence

from rootstock_server.backends.kv_cache import BLOCK_TOKENS


def block_keys(root: str, tokens: Sequence[int]) -> Iterator[bytes]:
    """A key for each full block of `tokens`, in order.

    A key stands for everything before it as well: it hashes its parent's. `root` must name all
    else that keys and values depend on: the adapters, and whose cache it is.
    """
    parent = hashlib.sha256(root.encode()).digest()
    for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        block = tokens[start : start + BLOCK_TOKENS]
        parent = hashlib.sha256(parent + array("q", block).tobytes()).digest()
        yield parent


class KvBlocks:
    """Blocks with reference counts. A block nobody holds keeps its prefix until it is needed."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._free = deque(range(blocks))
        self._holders = [0] * blocks
        self._key: list[bytes | None] = [None] * blocks
        self._by_key: dict[bytes, int] = {}
        self._kept: OrderedDict[int, None] = OrderedDict()  # nobody holds them; oldest use first

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.total - self.available

    @property
    def available(self) -> int:
        return len(self._free) + len(self._kept)

    @staticmethod
    def needed(tokens: int) -> int:
        return -(-tokens // BLOCK_TOKENS)

    def take(self, count: int) -> list[int] | None:
        """`count` blocks for new content, or None while there are not enough."""
        if count > self.available:
            return None
        taken = []
        for _ in range(count):
            block = self._free.popleft() if self._free else self._kept.popitem(last=False)[0]
            self._forget(block)
            self._holders[block] = 1
            taken.append(block)
        return taken

    def reuse(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest known prefix of `keys`, held from now on."""
        found = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            self._holders[block] += 1
            self._kept.pop(block, None)
            found.append(block)
        return found

    def remember(self, block: int, key: bytes) -> None:
        """`block` is full and holds what `key` stands for. The first block of a key keeps it."""
        if key not in self._by_key and self._key[block] is None:
            self._by_key[key] = block
            self._key[block] = key

    def give_back(self, blocks: Sequence[int]) -> None:
        # The last block first: a prefix is of no use without what stands before it.
        for block in reversed(blocks):
            self._holders[block] -= 1
            if self._holders[block]:
                continue
            if self._key[block] is None:
                self._free.append(block)
            else:
                self._kept[block] = None

    def _forget(self, block: int) -> None:
        key = self._key[block]
        if key is not None:
            self._key[block] = None
            del self._by_key[key]
