"""What an encoder-decoder is asked: a source for its encoder, and how its decoder begins.

A translator's languages are tokens: one before the source, one before the target. Refuses to know
transports, tenants and how the tokens are run.
"""

from __future__ import annotations

from collections.abc import Sequence

from rootstock_adapters.base_card import BaseCard
from rootstock_wire.fields import as_list
from rootstock_wire.openai import ChatBody, CompletionBody

from rootstock_server.base.tokenizer import Tokenizer
from rootstock_server.errors import BadRequest

Body = CompletionBody | ChatBody


def check_languages(card: BaseCard, body: Body) -> None:
    """Raises BadRequest naming the field where a base that is no translator is told a language."""
    for field in ("source_lang", "target_lang"):
        if getattr(body, field) is not None and not card.translates:
            raise BadRequest(
                f"{field}: {card.name} ({card.model_type}) is no translator between languages; "
                "leave it out",
                param=field,
            )


def sources(
    card: BaseCard, tokenizer: Tokenizer, body: Body
) -> tuple[Sequence[str | list[int]], str]:
    """What the encoder reads, as texts or token ids, and the field that it came in.

    Raises BadRequest.
    """
    given, field = _given(body)
    if not card.translates:
        return given, field
    if not any(isinstance(text, str) for text in given):
        if body.source_lang is not None:
            raise BadRequest(
                "source_lang: token ids begin with their language already; leave it out",
                param="source_lang",
            )
        return given, field
    language = _language(card, tokenizer, "source_lang", body.source_lang)
    return [
        tokenizer.in_language(text, language) if isinstance(text, str) else text for text in given
    ], field


def beginning(card: BaseCard, tokenizer: Tokenizer, body: Body) -> list[int]:
    """What the decoder goes on from: its start token, and the language that is wanted."""
    if not card.translates:
        return list(card.decoder_start)
    return [card.decoder_start[0], _language(card, tokenizer, "target_lang", body.target_lang)]


def _given(body: Body) -> tuple[Sequence[str | list[int]], str]:
    if isinstance(body, CompletionBody):
        return as_list(body.prompt), "prompt"
    if [message.role for message in body.messages] != ["user"]:
        raise BadRequest(
            "messages: this base reads one text and writes another; send one message of role user",
            param="messages",
        )
    return [body.messages[0].text], "messages"


def _language(card: BaseCard, tokenizer: Tokenizer, field: str, code: str | None) -> int:
    if code is None:
        raise BadRequest(
            f"{field}: {card.name} translates, so it needs a language, as its tokenizer names it "
            "(such as `en` or `eng_Latn`)",
            param=field,
        )
    token = tokenizer.language(code)
    if token is None or token >= card.vocab_size:
        raise BadRequest(f"{field}: {card.name} does not know the language {code!r}", param=field)
    return token
