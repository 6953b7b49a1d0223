"""Encoder-decoders in packed steps: sources are read in one step, targets are written in others.

Each request's source is encoded once; what the decoder's layers see of it stays in the request's
`Memory`. Refuses to know languages and adapters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rootstock_server.backends.step import Step, current
from rootstock_server.base.cross_attention import RelativeAttention, RelativeBias, SourceAttention

# What the part of a decoder layer is called that reads the encoder's output: M2M100's, T5's.
CROSS = {"encoder_attn": ("k_proj", "v_proj"), "EncDecAttention": ("k", "v")}


class EncoderDecoder:
    """Both halves of a base whose linears have been replaced already; changes them in place."""

    def __init__(self, backbone: nn.Module, model: PreTrainedModel) -> None:
        self._encoder, self._decoder = backbone.encoder, backbone.decoder
        self._cross: list[SourceAttention] = []
        for path, module in list(self._decoder.named_modules()):
            names = CROSS.get(path.rpartition(".")[2])
            if names:
                self._cross.append(_read_from_memory(module, len(self._cross), *names))
        # Whether the decoder's own keys and values are kept in the memories, not in the cache.
        self.relative = False
        for half in (self._encoder, self._decoder):
            self.relative = _use_relative_positions(half)
            if hasattr(half, "embed_positions"):
                half.embed_positions = PackedPositions(half.embed_positions)
        # Stands for the encoder's output, which the decoder does not see again.
        width = self._cross[0].heads_width
        self._unread = torch.zeros(1, 1, width, dtype=model.dtype, device=model.device)
        # T5 scales what its tokens are read out of, T5 1.1 does not.
        scaled = getattr(model.config, "scale_decoder_outputs", False)
        self.output_scale: float = model.config.d_model**-0.5 if scaled else 1.0

    def forward(self, step: Step) -> Tensor:
        """Last hidden states [T, D] of the encoder (`step.encodes`) or of the decoder."""
        ids = step.token_ids.to(self._unread.device, non_blocking=True)[None]
        if step.encodes:
            hidden: Tensor = self._encoder(input_ids=ids).last_hidden_state[0]
            self._remember(step, hidden)
            return hidden
        out = self._decoder(input_ids=ids, encoder_hidden_states=self._unread, use_cache=False)
        written: Tensor = out.last_hidden_state[0]
        return written

    def _remember(self, step: Step, hidden: Tensor) -> None:
        """Give each row with a memory its share of every decoder layer's keys and values."""
        kept = [(r, m) for r, m in zip(step.rows, step.memories, strict=True) if m is not None]
        for _, memory in kept:
            memory.clear()
        for attention in self._cross if kept else ():
            key, value = attention.project(hidden)
            for row, memory in kept:
                tokens = slice(row.start, row.stop)
                # Copies: a view would keep the whole step's tensor alive as long as its last row.
                memory.source.append((key[:, tokens].clone(), value[:, tokens].clone()))


class PackedPositions(nn.Module):
    """M2M100's sinusoids, looked up by each row's own positions and not by place in the batch."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.weights = nn.Buffer(embedding.weights, persistent=False)
        self._first = embedding.padding_idx + 1  # earlier rows of the table are never used

    def forward(self, input_ids: Tensor, *_: object) -> Tensor:
        """[1, T] → [1, T, D]."""
        positions = current().positions.to(self.weights.device, non_blocking=True)
        return self.weights[positions + self._first][None]


def _read_from_memory(attention: nn.Module, layer: int, key: str, value: str) -> SourceAttention:
    """Keys and values of a source are made when it is read: the layer itself has none to make."""
    size = getattr(attention, "head_dim", None) or attention.key_value_proj_dim
    source = SourceAttention(layer, getattr(attention, key), getattr(attention, value), size)
    setattr(attention, key, nn.Identity())
    setattr(attention, value, nn.Identity())
    attention.packed = source
    return source


def _use_relative_positions(half: nn.Module) -> bool:
    """T5's positions are a bias on attention's scores, learned by the first layer for all."""
    attentions = [m for _, m in half.named_modules() if hasattr(m, "has_relative_attention_bias")]
    owner = next((m for m in attentions if m.has_relative_attention_bias), None)
    if owner is None:
        return False
    bias = RelativeBias(owner)
    # The whole packed axis against itself: quadratic in the batch, and wrong in every row.
    owner.compute_bias = lambda *_, **__: torch.zeros(1, 1, 1, 1)
    for attention in attentions:
        if not hasattr(attention, "packed"):
            attention.packed = RelativeAttention(attention.layer_idx, bias)
    return True
