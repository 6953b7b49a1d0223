"""What runs next: decode first, then prefill chunks, fairly between owners.

Knows blocks, leases and token counts. Refuses to know what versions contain and what texts say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.op import Prepared

from rootstock_server.adapters.residency import Residency
from rootstock_server.config import EngineLimits
from rootstock_server.engine import together
from rootstock_server.engine.fairness import GENERATED, READ, ServedTokens
from rootstock_server.engine.grammar import Matcher
from rootstock_server.engine.kv_blocks import KvBlocks
from rootstock_server.engine.prefixes import Prefixes
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
from rootstock_server.errors import BadRequest, DeadlineExceeded, Overloaded, RootstockError


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
        self._limits, self._residency = limits, residency
        self._cache = Prefixes(blocks) if blocks is not None else None
        self._eos_ids, self._card = eos_ids, card
        self._served = ServedTokens()
        self._waiting: deque[Request] = deque()  # in order of arrival, preempted ones before
        self.running: list[Request] = []  # in order of admission
        self.preemptions = 0

    @property
    def waiting(self) -> list[Request]:
        """Whose turn it is first, first."""
        return self._served.order(self._waiting)

    @property
    def prefix_hit_tokens(self) -> int:
        return self._cache.hit_tokens if self._cache else 0

    def add(self, command: Generate | Encode, matcher: Matcher | None = None) -> None:
        """Queue a request, `matcher` at the beginning of its grammar where it has one.

        Raises Overloaded for a full queue, BadRequest if it can never fit.
        """
        if len(self._waiting) >= self._limits.max_waiting:
            raise Overloaded("the engine's queue is full; try again in a moment")
        request = Request(command, list(command.prompt_ids), matcher=matcher)
        if self._card.task == "text2text":
            request.source = _source_tokens(command)
        self._check(request, 0)
        if isinstance(command, Generate) and command.sampling.temperature > 0:
            seed = command.sampling.seed
            request.generator = torch.Generator()
            request.generator.manual_seed(seed) if seed is not None else request.generator.seed()
        self._waiting.append(request)
        self._served.arrive(request.owner)

    def cancel(self, request_id: str) -> tuple[int, ...]:
        """Forget a request wherever it is. Returns blocks whose content is not to be trusted."""
        for request in [*self.running, *self._waiting]:
            if request.id == request_id:
                return self._drop(request)
        return ()

    def expire(self, now: float) -> list[Event]:
        """Fail the requests whose deadline is past `now`, of this machine's monotonic clock."""
        events: list[Event] = []
        for request in [*self.running, *self._waiting]:
            deadline = request.command.deadline
            if deadline is not None and deadline < now:
                self._drop(request)
                events.append(_failed(request, DeadlineExceeded("the request's deadline is past")))
        return events

    def drop_unloadable(self, failed: dict[str, RootstockError]) -> list[Event]:
        """Fail the waiting requests whose versions cannot be loaded, or not be combined."""
        events: list[Event] = []
        for request in list(self._waiting):
            error = next((failed[d] for d in request.versions if d in failed), None)
            error = error or self._misfit(request)
            if error is not None:
                self._drop(request)
                events.append(_failed(request, error))
        return events

    def next_batch(self) -> Batch:
        """The next step's shares; empty when nothing can run."""
        shares = self._decode_shares()
        decode_rows = len(shares)
        budget = self._limits.max_batch_tokens - decode_rows
        chunks: list[Share] = []
        for request in [r for r in self.running if not r.decoding]:
            budget = self._chunk(request, budget, chunks)
        while budget > 0 and len(self.running) < self._limits.max_running:
            # Who waits for a version lets others pass; who waits for blocks does not, or a long
            # request would never run.
            request = next((r for r in self.waiting if self._resident(r)), None)
            if request is None or not self._admit(request):
                break
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
                self._drop(request)
                events.append(output)
            elif isinstance(output, Fault):
                self._drop(request)
                fault = Failed(
                    id=request.id, error=output.error, message=output.message, param=output.param
                )
                events.append(fault)
        return events

    def _check(self, request: Request, virtual: int) -> None:
        """Raises BadRequest where the request can never fit behind `virtual` virtual tokens."""
        ids, total = request.command.prompt_ids, virtual + request.most_tokens
        longest = max(request.source, total - request.source)
        if not ids or longest > self._card.context_length:
            before = f"{virtual} virtual tokens of a soft prompt, " if virtual else ""
            raise BadRequest(
                f"{before}{len(ids)} prompt tokens and what is to be generated do not fit "
                f"the base's context of {self._card.context_length}"
            )
        if not 0 <= min(ids) <= max(ids) < self._card.vocab_size:
            raise BadRequest(f"the base has no embedding for ids beyond {self._card.vocab_size}")
        if self._cache is not None and not self._cache.could_hold(total - request.forgotten):
            raise BadRequest(f"{total} tokens do not fit this server's KV cache (kv_cache_mib)")

    def _decode_shares(self) -> list[Share]:
        """One token for each request that generates; the last admitted make room where needed."""
        shares = []
        for request in list(self.running):
            while request.decoding and self._cache and not self._cache.grow(request):
                self._preempt(self.running[-1])
            if request.decoding:
                shares.append(Share(request, 1))
        return shares

    def _preempt(self, request: Request) -> None:
        """Back to the head of the queue; its tokens are read again when there is room."""
        self.preemptions += 1
        self._release(request)
        self._waiting.appendleft(request)

    def _chunk(self, request: Request, budget: int, chunks: list[Share]) -> int:
        """Give `request` as much of the budget as it can use; encoders need all in one step."""
        tokens = request.pending
        if request.reading:
            tokens = request.source
            if tokens > budget and chunks:
                return 0
        elif self._cache is not None:
            tokens = min(tokens, budget)
        elif tokens > budget and chunks:
            return 0
        if tokens > 0:
            chunks.append(Share(request, tokens))
        return budget - tokens

    def _resident(self, request: Request) -> bool:
        return all(self._residency.available(digest) for digest in request.versions)

    def _misfit(self, request: Request) -> RootstockError | None:
        """Why this request can never run, as soon as all that acts on it is known."""
        adapters, acting = request.command.adapters, self._acting(request)
        if not adapters or len(acting) < len(adapters):
            return None
        virtual = _virtual_tokens(acting)
        try:
            together.check(adapters, acting)
            if virtual:  # without, it was checked when it came
                self._check(request, virtual)
        except BadRequest as error:
            return error
        return None

    def _acting(self, request: Request) -> list[Prepared]:
        """What is known of the versions that act on the request's rows."""
        known = [self._residency.known(each.version) for each in request.command.adapters]
        return [prepared for prepared in known if prepared is not None]

    def _admit(self, request: Request) -> bool:
        request.make_room(_virtual_tokens(self._acting(request)))
        if self._cache is not None and not self._cache.admit(request, spare=len(self.running)):
            return False
        request.leases = {digest: self._residency.lease(digest) for digest in request.versions}
        request.skip_ahead()
        self._waiting.remove(request)
        self.running.append(request)
        self._served.charge(request.owner, READ * request.pending)
        return True

    def _advance(self, request: Request, sampled: Sampled) -> Token:
        request.tokens.append(sampled.token_id)
        self._served.charge(request.owner, GENERATED)
        if self._cache is not None:
            self._cache.remember(request)
        command = request.command
        assert isinstance(command, Generate)
        reason = None
        if sampled.token_id in self._eos_ids and not command.sampling.ignore_eos:
            reason = "stop"
        elif request.generated >= command.sampling.max_tokens:
            reason = "length"
        if reason:
            self._drop(request)
        return Token(
            id=request.id,
            token_id=sampled.token_id,
            logprob=sampled.logprob,
            top_logprobs=list(sampled.top_logprobs),
            finish_reason=reason,
        )

    def _drop(self, request: Request) -> tuple[int, ...]:
        """Forget a request wherever it is. Returns blocks whose content is not to be trusted."""
        self._served.leave(request.owner)
        if request not in self.running:
            self._waiting.remove(request)
            return ()
        blocks = request.untrusted_blocks
        self._release(request)
        return blocks

    def _release(self, request: Request) -> None:
        """Out of the running: its blocks and leases are free at once."""
        self.running.remove(request)
        if self._cache is not None:
            self._cache.release(request)
        for digest in request.leases:
            self._residency.release(digest)
        request.leases = {}


def _failed(request: Request, error: RootstockError) -> Failed:
    name = type(error).__name__
    return Failed(id=request.id, error=name, message=error.message, param=error.param)


def _source_tokens(command: Generate | Encode) -> int:
    """What an encoder-decoder's encoder reads: of what is only encoded, all."""
    if isinstance(command, Encode):
        return len(command.prompt_ids)
    if not 0 < command.source < len(command.prompt_ids):
        raise BadRequest("an encoder-decoder needs a source and what its decoder begins with")
    return command.source


def _virtual_tokens(prepared: Sequence[Prepared]) -> int:
    return sum(each.virtual.tokens for each in prepared if each.virtual)


def _by_slot(share: Share) -> tuple[int, int, list[str]]:
    """Rows under one version side by side: they become one segment, and slots in order a grid."""
    applied = share.request.applied
    slot = applied[0][0].slot if applied else None
    digests = [version.digest for version, _ in applied]
    return (slot.rank, slot.number, digests) if slot else (0, 0, digests)
