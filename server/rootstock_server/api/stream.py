"""From an engine's tokens to text as it becomes certain: detokenised, cut at stop strings, merged.

Refuses to know how a transport frames it, and who asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.engine.client import Answer, EngineClient, error_of
from rootstock_server.engine.request import Failed, Generate, Token
from rootstock_server.errors import RootstockError


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


class RowText:
    """One row's tokens as text, as far as it is certain."""

    def __init__(self, tokenizer: Tokenizer, row: Row) -> None:
        self._tokenizer, self._row = tokenizer, row
        self._text = tokenizer.stream(row.request.prompt_ids)
        self._stop = StopText(row.stops)
        self._count = 0

    def push(self, token: Token) -> Delta:
        """What `token` adds; a stop string that it completes ends the answer."""
        self._count += 1
        finish = token.finish_reason
        # A token that ends the answer is not part of its text.
        piece = "" if finish == "stop" else self._text.push(token.token_id)
        # As in vLLM, stop strings count only after the least number of tokens.
        hit = False
        if self._count > self._row.request.sampling.min_tokens:
            piece, hit = self._stop.push(piece)
        if hit:
            finish = "stop"
        elif finish:
            piece += self._stop.flush()
        return Delta(
            self._row.index, piece, token.token_id, _scored(self._tokenizer, token), finish
        )


def _scored(tokenizer: Tokenizer, token: Token) -> ScoredToken | None:
    if token.logprob is None:
        return None
    best = tuple(Score(tokenizer.token_text(i), p) for i, p in token.top_logprobs)
    return ScoredToken(Score(tokenizer.token_text(token.token_id), token.logprob), best)


class Answers:
    """All rows of one request, merged: deltas in the order in which they come.

    The first row to fail ends all of them. `fail` ends them from outside.
    """

    def __init__(self, engine: EngineClient, tokenizer: Tokenizer, rows: Sequence[Row]) -> None:
        self._engine = engine
        self._requests = [row.request for row in rows]
        self._open = {row.request.id: RowText(tokenizer, row) for row in rows}
        # Unbounded, but an answer has at most max_tokens entries.
        self._said: asyncio.Queue[Answer | RootstockError] = asyncio.Queue()

    def fail(self, error: RootstockError) -> None:
        self._said.put_nowait(error)

    async def __aiter__(self) -> AsyncGenerator[list[Delta]]:
        """As many deltas at a time as have come. Closing this cancels the rows in the engine."""
        with self._engine.answering(self._requests, self._said):
            while self._open:
                batch = [self._delta(await self._said.get())]
                while not self._said.empty():
                    batch.append(self._delta(self._said.get_nowait()))
                if deltas := [delta for delta in batch if delta is not None]:
                    yield deltas

    def _delta(self, answer: Answer | RootstockError) -> Delta | None:
        """None for what the engine said before it knew that a stop string had ended the row."""
        if isinstance(answer, RootstockError):
            raise answer
        if isinstance(answer, Failed):
            raise error_of(answer)
        assert isinstance(answer, Token)
        text = self._open.get(answer.id)
        if text is None:
            return None
        delta = text.push(answer)
        if delta.finish_reason is not None:
            del self._open[answer.id]
            self._engine.cancel(answer.id)
        return delta
