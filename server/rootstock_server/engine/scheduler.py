"""What runs next: decode first, then prefill chunks, in the order of arrival.

Knows blocks, leases and token counts. Refuses to know what versions contain and what texts say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from rootstock_adapters.base_card import BaseCard

from rootstock_server.adapters.residency import Residency
from rootstock_server.config import EngineLimits
from rootstock_server.engine.kv_blocks import KvBlocks
from rootstock_server.engine.request import (
    Batch,
    Encode,
    Encoded,
    Event,
    Failed,
    Fault,
    Generate,
    Output,
    Request,
    Sampled,
    Share,
    Token,
)
from rootstock_server.errors import BadRequest, Overloaded, RootstockError


class Scheduler:
    """Two bounded places: `waiting` for a version, blocks or room; `running`, with all of them."""

    def __init__(
        self,
        limits: EngineLimits,
        residency: Residency,
        blocks: KvBlocks | None,
        eos_ids: frozenset[int],
        card: BaseCard,
    ) -> None:
        self._limits, self._residency, self._blocks = limits, residency, blocks
        self._eos_ids, self._card = eos_ids, card
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []

    def add(self, command: Generate | Encode) -> None:
        """Queue a request. Raises Overloaded for a full queue, BadRequest if it can never fit."""
        if len(self.waiting) >= self._limits.max_waiting:
            raise Overloaded("the engine's queue is full; try again in a moment")
        request = Request(command, list(command.prompt_ids))
        if self._card.task == "text2text":
            request.source = _source_tokens(command)
        total = self._most_tokens(request)
        longest = max(request.source, total - request.source)
        if not command.prompt_ids or longest > self._card.context_length:
            raise BadRequest(
                f"{len(command.prompt_ids)} prompt tokens and what is to be generated do not fit "
                f"the base's context of {self._card.context_length}"
            )
        if not 0 <= min(command.prompt_ids) <= max(command.prompt_ids) < self._card.vocab_size:
            raise BadRequest(f"the base has no embedding for ids beyond {self._card.vocab_size}")
        if self._blocks is not None and KvBlocks.needed(total) > self._blocks.total:
            raise BadRequest(f"{total} tokens do not fit this server's KV cache (kv_cache_mib)")
        if isinstance(command, Generate) and command.sampling.temperature > 0:
            seed = command.sampling.seed
            request.generator = torch.Generator()
            request.generator.manual_seed(seed) if seed is not None else request.generator.seed()
        self.waiting.append(request)

    def cancel(self, request_id: str) -> tuple[int, ...]:
        """Forget a request wherever it is. Returns its blocks, which are free at once."""
        for request in self.running:
            if request.id == request_id:
                self._finish(request)
                return request.blocks
        for request in self.waiting:
            if request.id == request_id:
                self.waiting.remove(request)
                break
        return ()

    def drop_unloadable(self, failed: dict[str, RootstockError]) -> list[Event]:
        """Fail the waiting requests whose versions cannot be loaded, or not be combined."""
        events: list[Event] = []
        for request in list(self.waiting):
            error = next((failed[d] for d in request.versions if d in failed), None)
            error = error or self._misfit(request)
            if error is not None:
                self.waiting.remove(request)
                events.append(
                    Failed(id=request.id, error=type(error).__name__, message=error.message)
                )
        return events

    def next_batch(self) -> Batch:
        """The next step's shares; empty when nothing can run."""
        shares = [Share(r, 1) for r in self.running if r.decoding]
        decode_rows = len(shares)
        budget = self._limits.max_batch_tokens - decode_rows
        chunks: list[Share] = []
        for request in [r for r in self.running if not r.decoding]:
            budget = self._chunk(request, budget, chunks)
        for request in list(self.waiting):
            if budget <= 0 or len(self.running) >= self._limits.max_running:
                break
            if not self._resident(request):
                continue  # its version is still on its way: others may pass
            if not self._admit(request):
                break  # no blocks: nobody may pass, or a long request would never run
            budget = self._chunk(request, budget, chunks)
        return Batch((*sorted(shares, key=_by_slot), *sorted(chunks, key=_by_slot)), decode_rows)

    def commit(self, batch: Batch, outputs: Sequence[Output]) -> list[Event]:
        """Advance every request of the batch; the finished ones free their blocks and leases."""
        events: list[Event] = []
        for share, output in zip(batch.shares, outputs, strict=True):
            request = share.request
            request.computed += share.tokens
            if isinstance(output, Sampled):
                events.append(self._advance(request, output))
            elif isinstance(output, Encoded):
                self._finish(request)
                events.append(output)
            elif isinstance(output, Fault):
                self._finish(request)
                events.append(Failed(id=request.id, error=output.error, message=output.message))
        return events

    def _chunk(self, request: Request, budget: int, chunks: list[Share]) -> int:
        """Give `request` as much of the budget as it can use; encoders need all in one step."""
        tokens = request.pending
        if request.reading:
            tokens = request.source
            if tokens > budget and chunks:
                return 0
        elif self._blocks is not None:
            tokens = min(tokens, budget)
        elif tokens > budget and chunks:
            return 0
        if tokens > 0:
            chunks.append(Share(request, tokens))
        return budget - tokens

    def _most_tokens(self, request: Request) -> int:
        command = request.command
        new = command.sampling.max_tokens if isinstance(command, Generate) else 0
        return len(command.prompt_ids) + new

    def _resident(self, request: Request) -> bool:
        return all(self._residency.available(digest) for digest in request.versions)

    def _misfit(self, request: Request) -> RootstockError | None:
        adapters = request.command.adapters
        if len(adapters) > 1 or any(adapter.scale != 1 for adapter in adapters):
            for digest in request.versions:
                if not self._residency.combinable(digest):
                    return BadRequest(
                        f"version {digest} rescales what others do: use it alone, at scale 1",
                        param="adapters",
                    )
        return None

    def _admit(self, request: Request) -> bool:
        if self._blocks is not None:
            blocks = self._blocks.take(self._most_tokens(request))
            if blocks is None:
                return False
            request.blocks = blocks
        request.leases = {digest: self._residency.lease(digest) for digest in request.versions}
        self.waiting.remove(request)
        self.running.append(request)
        return True

    def _advance(self, request: Request, sampled: Sampled) -> Token:
        request.tokens.append(sampled.token_id)
        command = request.command
        assert isinstance(command, Generate)
        reason = None
        if sampled.token_id in self._eos_ids and not command.sampling.ignore_eos:
            reason = "stop"
        elif request.generated >= command.sampling.max_tokens:
            reason = "length"
        if reason:
            self._finish(request)
        return Token(
            id=request.id,
            token_id=sampled.token_id,
            logprob=sampled.logprob,
            top_logprobs=list(sampled.top_logprobs),
            finish_reason=reason,
        )

    def _finish(self, request: Request) -> None:
        self.running.remove(request)
        if self._blocks is not None:
            self._blocks.give_back(request.blocks)
        for digest in request.leases:
            self._residency.release(digest)


def _source_tokens(command: Generate | Encode) -> int:
    """What an encoder-decoder's encoder reads: of what is only encoded, all."""
    if isinstance(command, Encode):
        return len(command.prompt_ids)
    if not 0 < command.source < len(command.prompt_ids):
        raise BadRequest("an encoder-decoder needs a source and what its decoder begins with")
    return command.source


def _by_slot(share: Share) -> tuple[int, int, list[str]]:
    """Rows under one version side by side: they become one segment, and slots in order a grid."""
    applied = share.request.applied
    slot = applied[0][0].slot if applied else None
    digests = [version.digest for version, _ in applied]
    return (slot.rank, slot.number, digests) if slot else (0, 0, digests)
