"""A request's blocks of the KV cache: found again by their prefix, taken as it grows, given back.

Refuses to know in which order requests run.
"""

from __future__ import annotations

from itertools import islice

from rootstock_server.backends.kv_cache import BLOCK_TOKENS
from rootstock_server.engine.kv_blocks import KvBlocks, block_keys
from rootstock_server.engine.request import Encode, Request


class Prefixes:
    """Blocks of finished prompts serve later ones that begin alike (automatic prefix caching).

    Alike means: the same tokens, under the same adapters at the same scales, for the same owner.
    """

    def __init__(self, blocks: KvBlocks) -> None:
        self._blocks = blocks
        self.hit_tokens = 0

    def could_hold(self, tokens: int) -> bool:
        return KvBlocks.needed(tokens) <= self._blocks.total

    def admit(self, request: Request, spare: int) -> bool:
        """Blocks for all of the request's tokens; False while there are not enough.

        An encoder-decoder's source is kept elsewhere: its blocks only bound how much there is.
        `spare` blocks stay free for those who run, or one who enters would be thrown out at once.
        """
        found = self._known(request)
        missing = KvBlocks.needed(len(request.tokens) - request.forgotten) - len(found)
        room = self._blocks.available - spare >= missing
        taken = self._blocks.take(missing) if room else None
        if taken is None:
            self._blocks.give_back(found)
            return False
        request.blocks = (*found, *taken)
        request.keyed = len(found)
        request.computed = len(found) * BLOCK_TOKENS
        self.hit_tokens += request.computed
        return True

    def grow(self, request: Request) -> bool:
        """A block for the next token where the last one is full; False while there is none."""
        if KvBlocks.needed(request.computed + 1) <= len(request.blocks):
            return True
        taken = self._blocks.take(1)
        if taken is not None:
            request.blocks = (*request.blocks, *taken)
        return taken is not None

    def remember(self, request: Request) -> None:
        """Make the request's full blocks known, now that what was read from them was sound."""
        if request.source:
            return  # they hold a target: its prefix alone does not say what was its source
        full = request.computed // BLOCK_TOKENS
        if full > request.keyed:
            keys = block_keys(_root(request), request.tokens[: full * BLOCK_TOKENS])
            for block, key in islice(zip(request.blocks, keys, strict=False), request.keyed, None):
                self._blocks.remember(block, key)
            request.keyed = full

    def release(self, request: Request) -> None:
        self._blocks.give_back(request.blocks)
        request.blocks, request.computed, request.keyed = (), 0, 0
        request.memory = None
        request.hidden.clear()

    def _known(self, request: Request) -> list[int]:
        if isinstance(request.command, Encode) or request.source:
            return []  # hidden states are wanted of every token
        # One token is always computed anew: the next one is read from it.
        tokens = request.tokens[:-1]
        return self._blocks.reuse(list(block_keys(_root(request), tokens)))


def _root(request: Request) -> str:
    adapters = [(adapter.version, adapter.scale) for adapter in request.command.adapters]
    return repr((request.owner, adapters))
