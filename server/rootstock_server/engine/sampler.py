"""From next-token logits to tokens, each row by its own rules and its own random numbers.

Refuses to know where logits come from. Names and meanings are OpenAI's and vLLM's.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rootstock_server.engine import penalties
from rootstock_server.engine.grammar import Matcher
from rootstock_server.engine.request import Fault, Generate, Request, Sampled, Sampling
from rootstock_server.errors import BadRequest

log = logging.getLogger(__name__)

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
        try:
            outputs.append(_sample_row(logits[row], best[row], request, eos_ids))
        except BadRequest as error:  # a grammar that grew beyond its limits ends only its own row
            outputs.append(Fault("BadRequest", error.message, error.param))
        except Exception:  # raised, the step would be tried again, and its rows would draw twice
            log.exception("a row could not be sampled; its request is answered with an error")
            outputs.append(Fault("ServerFault", "sampling failed; see the server's log"))
    return outputs


def _sample_row(logits: Tensor, best: int, request: Request, eos_ids: frozenset[int]) -> Sampled:
    command = request.command
    assert isinstance(command, Generate)
    sampling = command.sampling
    allowed = _allowed(logits, request, sampling, eos_ids)
    if request.generator is not None:
        token = _draw(allowed, request.generator, sampling)
    else:
        token = best if allowed is logits else int(allowed.argmax())
    if request.matcher is not None:
        request.matcher.take(token)
    if sampling.logprobs is None:
        return Sampled(token)
    # As in OpenAI's and vLLM's answers: the model's own, before any rule of this request.
    logprobs = torch.log_softmax(logits, dim=-1)
    values, ids = logprobs.topk(min(sampling.logprobs, len(logprobs)))
    pairs = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return Sampled(token, float(logprobs[token]), pairs)


def _allowed(
    logits: Tensor, request: Request, sampling: Sampling, eos_ids: frozenset[int]
) -> Tensor:
    """`logits` [V] as this row's rules change them; the same tensor where it has no rules."""
    allowed = logits
    if penalties.asked(sampling):
        if request.penalties is None:
            assert isinstance(request.command, Generate)
            request.penalties = penalties.Penalties(request.command, len(logits))
        allowed = request.penalties.applied(allowed, request.own_tokens)
    if request.matcher is not None:
        allowed = allowed.masked_fill(_forbidden(request.matcher, len(logits)), float("-inf"))
    if eos_ids and request.generated < sampling.min_tokens:
        longer = allowed.clone()
        longer[list(eos_ids)] = float("-inf")
        # A grammar that has come to its end leaves nothing else: it wins.
        allowed = longer if longer.max() > float("-inf") else allowed
    return allowed


def _forbidden(matcher: Matcher, vocabulary: int) -> Tensor:
    """[V] bool: the ids that the grammar does not allow next."""
    allowed = torch.frombuffer(bytearray(matcher.allowed()), dtype=torch.uint8)
    forbidden = torch.ones(vocabulary, dtype=torch.bool)
    known = min(vocabulary, len(allowed))
    forbidden[:known] = allowed[:known] == 0
    return forbidden


def _draw(logits: Tensor, generator: torch.Generator, sampling: Sampling) -> int:
    """Temperature, min-p, top-k, then nucleus, in vLLM's order, and one draw.

    Min-p (arXiv 2407.01082) keeps what is at least `min_p` as likely as the likeliest token; the
    nucleus (arXiv 1904.09751) the smallest set of what is left that has `top_p` of its mass.
    """
    # The largest first: a tiny temperature must not make infinities of finite logits.
    scaled = (logits - logits.max()) / max(sampling.temperature, SMALLEST_TEMPERATURE)
    if sampling.min_p > 0:
        scaled = scaled.masked_fill(scaled < math.log(sampling.min_p), float("-inf"))
    ids = None
    if 0 < sampling.top_k < len(scaled):
        scaled, ids = scaled.topk(sampling.top_k)
    probabilities = torch.softmax(scaled, dim=-1)
    if sampling.top_p < 1:
        if ids is None:
            probabilities, ids = _most_likely(probabilities, sampling.top_p)
        before = probabilities.cumsum(0) - probabilities
        probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
    drawn = _index(probabilities, generator)
    return drawn if ids is None else int(ids[drawn])


def _most_likely(probabilities: Tensor, mass: float) -> tuple[Tensor, Tensor]:
    """At least the tokens that together have `mass`, in order: few nearly always, or all sorted."""
    few = probabilities.topk(min(FEW, len(probabilities)))
    if float(few.values.sum()) > mass:
        return few.values, few.indices
    return probabilities.sort(descending=True)


def _index(weights: Tensor, generator: torch.Generator) -> int:
    """A random index, as likely as its weight; torch.multinomial draws a number for each index."""
    cumulative = weights.cumsum(0, dtype=torch.float64)
    # The request's own generator stays on the CPU: one number travels, not the probabilities.
    uniform = torch.rand(1, generator=generator, dtype=torch.float64)
    drawn = uniform.to(cumulative.device) * cumulative[-1]
    # `right`: an index of weight zero has its neighbour's sum and is passed over.
    return min(int(torch.searchsorted(cumulative, drawn, right=True)), len(weights) - 1)
