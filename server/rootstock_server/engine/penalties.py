"""What a row's bias and penalties add to its logits, before anything is drawn.

Names and meanings are OpenAI's and vLLM's. Refuses to know how a token is drawn.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rootstock_server.engine.request import Generate, Sampling


def asked(sampling: Sampling) -> bool:
    """Whether this row's logits are to be changed at all; most rows ask for nothing."""
    return bool(
        sampling.logit_bias
        or sampling.presence_penalty
        or sampling.frequency_penalty
        or sampling.repetition_penalty != 1
    )


class Penalties:
    """One row's counts of its own tokens: kept with its request, so that a batch cannot matter."""

    def __init__(self, command: Generate, vocabulary: int) -> None:
        sampling = command.sampling
        self._sampling = sampling
        self._counted = len(command.prompt_ids)
        self._made = torch.zeros(vocabulary)  # [V] fp32: how often each token was generated
        self._seen = torch.zeros(vocabulary, dtype=torch.bool)  # [V]: in the prompt or generated
        # What an encoder reads is no text that the answer goes on from.
        self._seen[command.prompt_ids[command.source :]] = True
        self._biased = torch.tensor(list(sampling.logit_bias), dtype=torch.long)  # [biased]
        self._bias = torch.tensor(
            list(sampling.logit_bias.values()), dtype=torch.float32
        )  # [biased]

    def applied(self, logits: Tensor, tokens: list[int]) -> Tensor:
        """`logits` [V] fp32 as changed by all of `tokens`, the prompt and what was generated.

        In vLLM's order: the bias; the repetition penalty (CTRL, arXiv 1909.05858) over prompt and
        answer, which divides positive logits and multiplies the others; then what OpenAI takes
        off for tokens of the answer: `frequency_penalty` each time, `presence_penalty` once.
        """
        self._count(tokens)
        sampling = self._sampling
        changed = logits.index_add(0, self._biased, self._bias)
        if sampling.repetition_penalty != 1:
            factor = sampling.repetition_penalty
            damped = torch.where(changed > 0, changed / factor, changed * factor)
            changed = torch.where(self._seen, damped, changed)
        if sampling.frequency_penalty:
            changed = changed - sampling.frequency_penalty * self._made
        if sampling.presence_penalty:
            changed = changed - sampling.presence_penalty * (self._made > 0)
        return changed

    def _count(self, tokens: list[int]) -> None:
        for token in tokens[self._counted :]:
            self._made[token] += 1
            self._seen[token] = True
        self._counted = len(tokens)
