"""From hidden states to outputs: the next token, an embedding, the logits of heads.

Many heads read one pass. Refuses to know schedules and sockets.
"""

from __future__ import annotations

import torch
from rootstock_adapters.head import op as head_op
from torch import Tensor

from rootstock_server.base.load import Base
from rootstock_server.engine.request import (
    Batch,
    Encode,
    Encoded,
    Fault,
    Generate,
    HeadAnswer,
    Output,
    Request,
)
from rootstock_server.engine.runner import Runner
from rootstock_server.engine.sampler import sample


@torch.inference_mode()
def read_out(base: Base, runner: Runner, hidden: Tensor, batch: Batch) -> list[Output]:
    """One output per share of `batch`; `hidden` [T, D] in the order of its shares."""
    outputs: list[Output] = [None] * len(batch.shares)
    generating: list[tuple[int, int]] = []  # (share, its last token)
    stop = 0
    for number, share in enumerate(batch.shares):
        start, stop = stop, stop + share.tokens
        if isinstance(share.request.command, Encode):
            # Heads are small: they are read out where their weights are, in ordinary memory.
            chunk = hidden[start:stop].float().cpu()
            share.request.hidden[share.request.computed] = chunk
            if share.completes:
                outputs[number] = _encoded(base, share.request)
        elif share.completes:
            generating.append((number, stop - 1))
    if generating:
        requests = [batch.shares[number].request for number, _ in generating]
        logits = runner.logits(hidden[[last for _, last in generating]], requests)
        sampled = sample(logits, requests, base.eos_ids)
        for (number, _), output in zip(generating, sampled, strict=True):
            outputs[number] = output
    return outputs


def _encoded(base: Base, request: Request) -> Encoded | Fault:
    command = request.command
    assert not isinstance(command, Generate)
    # Heads read the request's own tokens, as they would without virtual ones before them.
    hidden = torch.cat(list(request.hidden.values()))[None, -len(command.prompt_ids) :]  # [1, L, D]
    mask = torch.ones(hidden.shape[:2], dtype=torch.long)
    if not torch.isfinite(hidden).all():
        return Fault("ServerFault", "numerical_error: hidden states are not finite")
    heads = []
    for digest in command.heads:
        head = request.leases[digest].prepared.readout
        if head is None:
            return Fault("AdapterMismatch", f"version {digest} has no head to classify with")
        heads.append(head)
    logits = head_op.classify_all(hidden, mask, heads)
    answers = [
        HeadAnswer(
            version=digest,
            labels=list(head.labels),
            logits=[] if head.per_token else each[0].tolist(),
            token_logits=each[0].tolist() if head.per_token else [],
        )
        for digest, head, each in zip(command.heads, heads, logits, strict=True)
    ]
    embedding = None
    if command.embed:
        pooled = head_op.pool(hidden, mask, base.card.pooling, base.card.normalize)
        embedding = pooled[0].tolist()
    return Encoded(id=request.id, embedding=embedding, heads=answers)
