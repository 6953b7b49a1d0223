"""Who owns which block of the KV cache. Refuses to know what is written in them."""

from __future__ import annotations

from rootstock_server.backends.kv_cache import BLOCK_TOKENS


class KvBlocks:
    """A free list. A request takes all blocks it can ever need, so a running one never waits."""

    def __init__(self, blocks: int) -> None:
        self.total = blocks
        self._free = list(range(blocks))

    @property
    def used(self) -> int:
        return self.total - len(self._free)

    @staticmethod
    def needed(tokens: int) -> int:
        return -(-tokens // BLOCK_TOKENS)

    def take(self, tokens: int) -> tuple[int, ...] | None:
        """Blocks for `tokens` tokens, or None while there are not enough."""
        count = self.needed(tokens)
        if count > len(self._free):
            return None
        taken, self._free = self._free[:count], self._free[count:]
        return tuple(taken)

    def give_back(self, blocks: tuple[int, ...]) -> None:
        self._free.extend(blocks)
