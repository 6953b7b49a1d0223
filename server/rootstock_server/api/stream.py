"""From an engine's tokens to text as it becomes certain: detokenised, cut at stop strings, merged.

Refuses to know how a transport frames it, and who asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.engine.client import EngineClient
from rootstock_server.engine.request import Generate, Token
from rootstock_server.errors import RootstockError, ServerFault


@dataclass(frozen=True)
class Score:
    """A token's text and its natural-log probability."""

    text: str
    logprob: float


@dataclass(frozen=True)
class ScoredToken:
    """The token that was drawn, and the likeliest ones at its place, best first."""

    drawn: Score
    best: tuple[Score, ...]


@dataclass(frozen=True)
class Delta:
    """What one token adds to answer `index`. `finish_reason` is set on the answer's last one.

    `text` may be empty: a character is not complete yet, or a stop string may have begun.
    """

    index: int
    text: str
    token_id: int
    scored: ScoredToken | None
    finish_reason: str | None


@dataclass(frozen=True)
class Row:
    """One answer being generated: what to run, where its text is cut."""

    index: int
    request: Generate
    stops: tuple[str, ...]


class StopText:
    """Lets text through up to the first stop string, holding back what could become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has ended it."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        certain = len(text) - self._undecided(text)
        self._held = text[certain:]
        return text[:certain], False

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """The length of the longest end of `text` that is the beginning of a stop string."""
        longest = min(len(text), max((len(stop) - 1 for stop in self._stops), default=0))
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0


async def deltas(engine: EngineClient, tokenizer: Tokenizer, row: Row) -> AsyncGenerator[Delta]:
    """One row's answer. Closing this cancels the row in the engine, and so does a stop string."""
    text = tokenizer.stream(row.request.prompt_ids)
    stop = StopText(row.stops)
    count = 0
    async with aclosing(engine.generate(row.request)) as tokens:  # type: ignore[type-var]
        async for token in tokens:
            count += 1
            finish = token.finish_reason
            # A token that ends the answer is not part of its text.
            piece = "" if finish == "stop" else text.push(token.token_id)
            # As in vLLM, stop strings count only after the least number of tokens.
            hit = False
            if count > row.request.sampling.min_tokens:
                piece, hit = stop.push(piece)
            if hit:
                finish = "stop"
            elif finish:
                piece += stop.flush()
            yield Delta(row.index, piece, token.token_id, _scored(tokenizer, token), finish)
            if finish:
                return
    raise ServerFault("the engine ended an answer without saying why")


def _scored(tokenizer: Tokenizer, token: Token) -> ScoredToken | None:
    if token.logprob is None:
        return None
    best = tuple(Score(tokenizer.token_text(i), p) for i, p in token.top_logprobs)
    return ScoredToken(Score(tokenizer.token_text(token.token_id), token.logprob), best)


class Merge:
    """Several rows' deltas as one iterator, in the order in which they come.

    The first row to fail ends all of them. `fail` ends them from outside.
    """

    def __init__(self, rows: Sequence[AsyncGenerator[Delta]]) -> None:
        self._rows = rows
        # Unbounded, but an answer has at most max_tokens entries.
        self._queue: asyncio.Queue[Delta | RootstockError | None] = asyncio.Queue()

    def fail(self, error: RootstockError) -> None:
        self._queue.put_nowait(error)

    async def __aiter__(self) -> AsyncGenerator[Delta]:
        pumps = [asyncio.create_task(self._pump(row)) for row in self._rows]
        open_rows = len(pumps)
        try:
            while open_rows:
                item = await self._queue.get()
                if isinstance(item, RootstockError):
                    raise item
                if item is None:
                    open_rows -= 1
                else:
                    yield item
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, row: AsyncGenerator[Delta]) -> None:
        try:
            async with aclosing(row):
                async for delta in row:
                    self._queue.put_nowait(delta)
            self._queue.put_nowait(None)
        except RootstockError as error:
            self._queue.put_nowait(error)
        except Exception as error:
            fault = ServerFault("the server failed while answering; see its log")
            fault.__cause__ = error
            self._queue.put_nowait(fault)
