"""From next-token logits to tokens, each row by its own rules and its own random numbers.

Refuses to know where logits come from. Names and meanings are OpenAI's and vLLM's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rootstock_server.engine.request import Fault, Generate, Request, Sampled

SMALLEST_TEMPERATURE = 1e-6  # below it only the best token is ever drawn; 0 would divide
FEW = 256  # sorting a whole vocabulary takes longer than the pass that it follows


def sample(
    logits: Tensor, requests: Sequence[Request], eos_ids: frozenset[int]
) -> list[Sampled | Fault]:
    """One token per row. `logits` [S, V] fp32, row i for `requests[i]`.

    A row whose logits are not finite becomes a Fault; its neighbours are untouched.
    """
    # One sum instead of a test per logit: a NaN or an infinity never sums to a finite number.
    finite = logits.sum(dim=1).isfinite().tolist()
    best = logits.argmax(dim=1).tolist()
    outputs: list[Sampled | Fault] = []
    for row, request in enumerate(requests):
        if not finite[row]:
            outputs.append(Fault("ServerFault", "numerical_error: logits are not finite"))
            continue
        outputs.append(_sample_row(logits[row], best[row], request, eos_ids))
    return outputs


def _sample_row(logits: Tensor, best: int, request: Request, eos_ids: frozenset[int]) -> Sampled:
    command = request.command
    assert isinstance(command, Generate)
    sampling = command.sampling
    allowed = logits
    if eos_ids and request.generated < sampling.min_tokens:
        allowed = logits.clone()
        allowed[list(eos_ids)] = float("-inf")
        best = int(allowed.argmax())
    token = best
    if request.generator is not None:
        token = _draw(allowed, request, sampling.temperature, sampling.top_k, sampling.top_p)
    if sampling.logprobs is None:
        return Sampled(token)
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(sampling.logprobs, len(logprobs)))
    pairs = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Sampled(token, float(logprobs[token]), pairs)


def _draw(logits: Tensor, request: Request, temperature: float, top_k: int, top_p: float) -> int:
    """Temperature, then top-k, then nucleus (Holtzman et al., arXiv 1904.09751), then one draw."""
    # The largest first: a tiny temperature must not make infinities of finite logits.
    scaled = (logits - logits.max()) / max(temperature, SMALLEST_TEMPERATURE)
    ids = None
    if 0 < top_k < len(scaled):
        scaled, ids = scaled.topk(top_k)
    probabilities = torch.softmax(scaled, dim=-1)
    if top_p < 1:
        if ids is None:
            probabilities, ids = _most_likely(probabilities, top_p)
        before = probabilities.cumsum(0) - probabilities
        probabilities = torch.where(before < top_p, probabilities, 0.0)
    drawn = _index(probabilities, request.generator)
    return drawn if ids is None else int(ids[drawn])


def _most_likely(probabilities: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """At least the tokens that together have `mass`, in order: few nearly always, or all sorted."""
    few = probabilities.topk(min(FEW, len(probabilities)))
    if float(few.values.sum()) > mass:
        return few.values, few.indices
    return probabilities.sort(descending=True)


def _index(weights: Tensor, generator: torch.Generator | None) -> int:
    """A random index, as likely as its weight; torch.multinomial draws a number for each index."""
    cumulative = weights.cumsum(0, dtype=torch.float64)
    drawn = torch.rand(1, generator=generator, dtype=torch.float64) * cumulative[-1]
    # `right`: an index of weight zero has its neighbour's sum and is passed over.
    return min(int(torch.searchsorted(cumulative, drawn, right=True)), len(weights) - 1)
