"""The frozen base as the trainer needs it: loaded from a local folder, proven to be the right one.

Refuses to know the registry, and to load pickled weights or code that comes with a model.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rootstock_adapters import m2m100_tokenizer
from rootstock_adapters.base_card import BaseCard, fingerprint
from rootstock_adapters.errors import BaseError
from rootstock_adapters.file import read_header
from rootstock_adapters.head.op import pool
from rootstock_adapters.head.spec import HeadPooling
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rootstock_trainer.batches import by_length
from rootstock_trainer.errors import BadSpec

# transformers takes seconds to import, and a head on stored features never needs it.
if TYPE_CHECKING:
    from transformers import (
        AutoModel,
        AutoModelForCausalLM,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    _Auto = (
        type[AutoModel]
        | type[AutoModelForCausalLM]
        | type[AutoModelForMaskedLM]
        | type[AutoModelForSeq2SeqLM]
    )

# Tokens, padding included, that pass through the base at once: keeps the activations small.
EMBED_BATCH_TOKENS = 4096
# from_pretrained patches transformers itself while it runs (no_tie_weights): two at once in one
# process restore each other's patch, and every later model has its tied weights apart.
_ONE_LOAD = threading.Lock()


@dataclass(frozen=True)
class Base:
    """A registered base and the folder that holds it."""

    card: BaseCard
    path: Path

    def check(self) -> None:
        """Raises BadSpec unless the folder holds exactly the registered base."""
        if not self.path.is_dir():
            raise BadSpec(f"base_path: there is no folder {self.path}")
        if fingerprint(self.path) != self.card.fingerprint:
            raise BadSpec(
                f"base_path: {self.path} is not the registered base {self.card.name}: its files "
                "have changed. Register the folder again, or name the folder that was registered"
            )

    def parameter_count(self) -> int:
        """Numbers in the base's safetensors files; a tied matrix is stored, and counted, once."""
        headers = [read_header(file) for file in sorted(self.path.glob("*.safetensors"))]
        return sum(math.prod(t.shape) for header in headers for t in header.values())

    def tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        with _named(self.path):
            if not (self.path / "tokenizer.json").is_file() and m2m100_tokenizer.fits(self.path):
                return _m2m100_tokenizer(self.path)
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=False)

    def backbone(self) -> PreTrainedModel:
        """The model without its task head, fp32, frozen."""
        from transformers import AutoModel

        return self._load(AutoModel)

    def decoder(self) -> PreTrainedModel:
        """The causal language model, fp32, frozen."""
        from transformers import AutoModelForCausalLM

        return self._load(AutoModelForCausalLM)

    def encoder_decoder(self) -> PreTrainedModel:
        """The model that reads one text and writes another, fp32, frozen."""
        from transformers import AutoModelForSeq2SeqLM

        return self._load(AutoModelForSeq2SeqLM)

    def model(self) -> PreTrainedModel:
        """What the base's task needs: a decoder or encoder-decoder with its output, or an encoder
        without one."""
        load = {
            "generate": self.decoder,
            "encode": self.backbone,
            "text2text": self.encoder_decoder,
        }
        return load[self.card.task]()

    def masked_lm(self) -> PreTrainedModel:
        """The encoder with its masked-language head, fp32, frozen."""
        from transformers import AutoModelForMaskedLM

        return self._load(AutoModelForMaskedLM)

    def _load(self, auto: _Auto) -> PreTrainedModel:
        with _named(self.path), _ONE_LOAD:
            model: PreTrainedModel = auto.from_pretrained(
                self.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
            )
        return model.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(
        self, texts: Sequence[str], pooling: HeadPooling | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Pooled last hidden states, in batches: indices into `texts`, and [B, D] fp32.

        As the server does it: the backbone's last hidden state, special tokens as the tokenizer
        adds them, right-padded. A text longer than the context is cut there. With the pooling
        `none`, [B, L, D], of which a row's tokens are the first.
        """
        card = self.card
        ids = self.text_ids(texts)
        model = self.backbone()
        reader = model.get_encoder() if card.task == "text2text" else model
        for batch in by_length([len(row) for row in ids], EMBED_BATCH_TOKENS):
            rows = [torch.tensor(ids[i]) for i in batch]
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            tokens = pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
            hidden = reader(input_ids=tokens, attention_mask=mask).last_hidden_state
            yield batch, pool(hidden, mask, pooling or card.pooling, card.normalize)

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Callers' texts as a server reads them, each cut at the end of the context. Special
        tokens in them are the plain text they are."""
        ids: list[list[int]] = self.tokenizer()(
            list(texts),
            truncation=True,
            max_length=self.card.context_length,
            split_special_tokens=True,
        )["input_ids"]
        return ids

    @cached_property
    def pad_id(self) -> int:
        return self.tokenizer().pad_token_id or 0


def _m2m100_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """As a server reads the folder; transformers' own needs sentencepiece, too."""
    from transformers import PreTrainedTokenizerFast

    config = path / "tokenizer_config.json"
    settings = json.loads(config.read_text()) if config.is_file() else {}
    bos, pad, eos, unknown = m2m100_tokenizer.SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=m2m100_tokenizer.backend(path, settings),
        bos_token=bos,
        pad_token=pad,
        eos_token=eos,
        unk_token=unknown,
    )


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """transformers fails in many ways on a damaged folder; the folder is what the user knows."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise BaseError(f"{path} cannot be loaded: {first_line}") from error
