"""Grammars that answers must follow: compiled on a thread of their own, then walked row by row.

Borrows llguidance. Knows which bytes a token id stands for; refuses to know what a grammar is for.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rootstock_server.engine.request import Generate, Grammar
from rootstock_server.errors import BadRequest, Overloaded, RootstockError, ServerFault

if TYPE_CHECKING:  # an engine without llguidance serves everything else
    from llguidance import LLMatcher, LLParserLimits, LLTokenizer

log = logging.getLogger(__name__)

KEPT = 32  # compiled grammars
# In llguidance's units of work: a grammar takes at most about a second, a step some milliseconds.
INITIAL_LEXER_FUEL = 500_000
STEP_LEXER_FUEL = 100_000
STEP_ITEMS = 20_000
LEXER_STATES = 20_000  # 1 to 2 kB each
GRAMMAR_SYMBOLS = 60_000
MAX_REASON_CHARS = 200


class Matcher:
    """One row's place in its grammar. It belongs to its request, so that a batch cannot matter."""

    def __init__(self, matcher: LLMatcher, field: str) -> None:
        self._matcher, self._field = matcher, field

    def allowed(self) -> bytes:
        """One byte per token id, 0 where the grammar forbids it. Raises BadRequest.

        Once the grammar's text is complete only the base's end tokens are allowed.
        """
        allowed: bytes = self._matcher.compute_logit_bias()
        self._check()
        return allowed

    def take(self, token_id: int) -> None:
        """Go on by the token that was drawn. Raises BadRequest."""
        self._matcher.consume_token(token_id)
        self._check()

    def copy(self) -> Matcher:
        return Matcher(self._matcher.deep_copy(), self._field)

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadRequest(_refusal(self._field, self._matcher.get_error()), param=self._field)


class Grammars:
    """Compiles what requests ask for, one at a time, while the engine goes on stepping.

    `wake` is called, on the compiling thread, when one has ended.
    """

    def __init__(
        self,
        tokenizer: Path | None,
        vocabulary: int,
        eos_ids: frozenset[int],
        max_waiting: int,
        wake: Callable[[], None],
    ) -> None:
        self._file, self._vocabulary, self._eos_ids = tokenizer, vocabulary, eos_ids
        self._max_waiting, self._wake = max_waiting, wake
        self._waiting: dict[str, tuple[Generate, Future[Matcher]]] = {}  # by request id
        self._compiled: OrderedDict[Grammar, Matcher] = OrderedDict()
        self._tokenizer: LLTokenizer | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._closing = threading.Event()

    def close(self) -> None:
        self._closing.set()
        self._thread.shutdown(wait=True, cancel_futures=True)

    def submit(self, command: Generate, grammar: Grammar) -> None:
        """Take a command whose answer has a grammar. Raises Overloaded."""
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded("the engine's queue is full; try again in a moment")
        compiled = self._thread.submit(self._compile, grammar)
        self._waiting[command.id] = (command, compiled)
        compiled.add_done_callback(self._tell)

    def cancel(self, request_id: str) -> None:
        if request_id in self._waiting:
            self._waiting.pop(request_id)[1].cancel()

    @property
    def ready(self) -> bool:
        """Whether `finished` has something to say."""
        return any(compiled.done() for _, compiled in self._waiting.values())

    def finished(self) -> Iterator[tuple[Generate, Matcher | RootstockError]]:
        """The commands whose grammars are ready, or cannot be compiled; each once."""
        for command, compiled in list(self._waiting.values()):
            if compiled.done():
                del self._waiting[command.id]
                yield command, _outcome(compiled)

    def _tell(self, _: Future[Matcher]) -> None:
        if not self._closing.is_set():
            self._wake()

    def _compile(self, grammar: Grammar) -> Matcher:
        """A matcher at its beginning, with the work of its first step done."""
        if grammar in self._compiled:
            self._compiled.move_to_end(grammar)
            return self._compiled[grammar].copy()
        from llguidance import LLMatcher

        # A panic inside llguidance becomes an error of the matcher, and never an exception.
        compiled = LLMatcher(
            self._vocabulary_of(grammar.field), grammar.text, log_level=0, limits=_limits()
        )
        matcher = Matcher(compiled, grammar.field)
        matcher.allowed()  # the first is the dearest: it must not happen between other rows' steps
        self._compiled[grammar] = matcher
        if len(self._compiled) > KEPT:
            self._compiled.popitem(last=False)
        return matcher.copy()

    def _vocabulary_of(self, field: str) -> LLTokenizer:
        if self._tokenizer is None:
            if self._file is None or not self._eos_ids:
                raise BadRequest(
                    f"{field}: this base has no end-of-text token to end such an answer with",
                    param=field,
                )
            try:
                self._tokenizer = _read(self._file, self._vocabulary, self._eos_ids)
            except ValueError as error:  # llguidance does not know every kind of tokenizer
                raise BadRequest(
                    f"{field}: does not work with this base's tokenizer: {error}", param=field
                ) from error
        return self._tokenizer


def _read(file: Path, vocabulary: int, eos_ids: frozenset[int]) -> LLTokenizer:
    from llguidance import LLTokenizer
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    # A model's output may be wider than its tokenizer: an end token may lie there, no text does.
    nameless = range(tokenizer.get_vocab_size(), max(eos_ids) + 1)
    tokenizer.add_special_tokens([f"<|no text {token}|>" for token in nameless])
    ids = max(vocabulary, tokenizer.get_vocab_size())
    return LLTokenizer(tokenizer.to_str(), n_vocab=ids, eos_token=sorted(eos_ids))


def _outcome(compiled: Future[Matcher]) -> Matcher | RootstockError:
    try:
        return compiled.result()
    except RootstockError as error:
        return error
    except Exception:
        log.exception("a grammar could not be compiled; its request is answered with an error")
        return ServerFault("the grammar could not be compiled; see the server's log")


def _limits() -> LLParserLimits:
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=INITIAL_LEXER_FUEL,
        step_lexer_fuel=STEP_LEXER_FUEL,
        step_max_items=STEP_ITEMS,
        max_lexer_states=LEXER_STATES,
        max_grammar_size=GRAMMAR_SYMBOLS,
        verbose_errors=False,
    )


def _refusal(field: str, reason: str) -> str:
    """What llguidance says, without its own stack."""
    told = " ".join(reason.split("<")[0].split())
    if told.startswith("panic"):
        told = "it is too large"
    return f"{field}: cannot be used as a grammar: {told[:MAX_REASON_CHARS]}"
