"""A base's tokenizer: text and chat messages to token ids, and token ids to text piece by piece.

Reads tokenizer.json with `tokenizers` and renders the base's chat template with transformers' own
torch-free renderer, so that the front end does not load torch. Refuses to know what a model is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from rootstock_adapters import m2m100_tokenizer
from rootstock_adapters.errors import BaseError
from tokenizers import Tokenizer as BackendTokenizer
from tokenizers.decoders import DecodeStream
from transformers.utils.chat_template_utils import render_jinja_template

# ISO 639 codes as M2M100 has them, with a script as NLLB has them.
_LANGUAGE = re.compile(r"[a-z]{2,3}(_[A-Z][a-z]{3})?")
# Private-use characters around a special token that a caller wrote inside a message.
_OPEN, _CLOSE = "\U000f0000", "\U000f0001"
_MARKED = re.compile(f"{_OPEN}([^{_OPEN}{_CLOSE}]*){_CLOSE}|[{_OPEN}{_CLOSE}]")


class ChatTemplateError(ValueError):
    """The base has no chat template, or its template refuses these messages."""


class Piece(NamedTuple):
    """One token of a text: characters `start:end` of it."""

    word: str
    start: int
    end: int
    special: bool  # put around the text by the base itself


class Tokenizer:
    """Safe to share between requests and threads; `stream` gives each request its own state.

    A special token written by a caller is encoded as the plain text it is, never as the token.
    """

    def __init__(self, path: Path) -> None:
        """Raises BaseError where the folder has no tokenizer.json and is not M2M100's, either."""
        file = path / "tokenizer.json"
        settings = _settings(path)
        if not file.is_file() and not m2m100_tokenizer.fits(path):
            raise BaseError(
                f"{path} has no tokenizer.json; write one with "
                "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        self._template_side = _backend(path, settings)
        self._text_side = _backend(path, settings)
        self._text_side.encode_special_tokens = True
        self._names = _special_names(settings)
        self._template = _chat_template(path, settings)
        added = self._template_side.get_added_tokens_decoder().values()
        special = sorted((x.content for x in added if x.special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)) or "(?!)")

    def encode(self, text: str) -> list[int]:
        """The ids of a caller's text, with what the base itself puts around a text ([CLS], <s>)."""
        return list(self._text_side.encode(text).ids)

    def language(self, code: str) -> int | None:
        """The token of a language: `de` is `__de__` (M2M100), `deu_Latn` is itself (NLLB)."""
        if not _LANGUAGE.fullmatch(code):
            return None
        token = code if "_" in code else f"__{code}__"
        found: int | None = self._text_side.token_to_id(token)
        return found

    def in_language(self, text: str, language: int) -> list[int]:
        """The ids of a text to be translated, as both families put it: language, text, end."""
        end = self._text_side.token_to_id(self._names.get("eos_token", "</s>"))
        ids = self._text_side.encode(text, add_special_tokens=False).ids
        return [language, *ids] if end is None else [language, *ids, end]

    def pieces(self, text: str) -> list[Piece]:
        """What each of the ids that `encode` gives stands for."""
        encoded = self._text_side.encode(text)
        special = map(bool, encoded.special_tokens_mask)
        return [
            Piece(word, start, end, own)
            for word, (start, end), own in zip(
                encoded.tokens, encoded.offsets, special, strict=True
            )
        ]

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
    ) -> list[int]:
        """The ids of `{role, content, …}` messages and the opening of the next answer.

        `tools` are told to the model where its template can tell them.

        Raises ChatTemplateError.
        """
        if self._template is None:
            raise ChatTemplateError(
                "this base has no chat template; ask it with /v1/completions instead"
            )
        messages, tools = self._marked(list(messages)), self._marked(list(tools))
        try:
            rendered, _ = render_jinja_template(
                conversations=[[dict(message) for message in messages]],
                tools=tools or None,
                chat_template=self._template,
                add_generation_prompt=True,
                **self._names,
            )
        except TemplateError as error:
            raise ChatTemplateError(f"the base's chat template refuses: {error}") from error
        return self._encode_rendered(rendered[0])

    def _marked(self, value: Any) -> Any:
        """`value` with every special token inside its texts marked, at any depth."""
        if isinstance(value, str):
            return self._mark(value)
        if isinstance(value, Mapping):
            return {self._marked(key): self._marked(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self._marked(each) for each in value]
        return value

    def _mark(self, text: str) -> str:
        clean = text.replace(_OPEN, "").replace(_CLOSE, "")
        return self._special.sub(f"{_OPEN}\\g<0>{_CLOSE}", clean)

    def _encode_rendered(self, text: str) -> list[int]:
        # Splitting gives [template, marked, template, …]; None stands for a lone marker.
        ids: list[int] = []
        for index, piece in enumerate(_MARKED.split(text)):
            side = self._text_side if index % 2 else self._template_side
            if piece:
                ids += side.encode(piece, add_special_tokens=False).ids
        return ids

    def token_text(self, token_id: int) -> str:
        return str(self._template_side.decode([token_id], skip_special_tokens=False))

    def stream(self, prompt_ids: Sequence[int]) -> TextStream:
        return TextStream(self._template_side, prompt_ids)


class TextStream:
    """Turns one request's tokens into text as they come; whole characters only."""

    def __init__(self, tokenizer: BackendTokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        # Some decoders drop a leading space: the last prompt token tells them it is not leading.
        before = list(prompt_ids[-1:])
        if tokenizer.decode(before, skip_special_tokens=True).endswith("\ufffd"):
            before = []
        self._stream = DecodeStream(ids=before, skip_special_tokens=True)

    def push(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        return self._stream.step(self._tokenizer, token_id) or ""


def _backend(path: Path, settings: Mapping[str, Any]) -> BackendTokenizer:
    file = path / "tokenizer.json"
    if not file.is_file():
        return m2m100_tokenizer.backend(path, settings)
    try:
        tokenizer = BackendTokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises bare Exception
        raise BaseError(f"{file} is not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _settings(path: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path / name).is_file():
            settings.update(json.loads((path / name).read_text()))
    return settings


def _special_names(settings: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `eos_token`, …: the names a chat template may use."""
    names = {}
    for key, value in settings.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            names[key] = content
    return names


def _chat_template(path: Path, settings: Mapping[str, Any]) -> str | None:
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    return template
