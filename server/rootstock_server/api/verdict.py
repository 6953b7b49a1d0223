"""Heads' passes and verdicts: which heads share a pass, and what their logits say.

Refuses to know who asked and how a pass is run.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence

from rootstock_wire.native import HeadResult

from rootstock_server.api.prepare import Target
from rootstock_server.engine.request import Encode, HeadAnswer
from rootstock_server.errors import AdapterMismatch, ServerFault


def head_pass(group: Sequence[Target], ids: list[int]) -> Encode:
    """One pass over a text, read out by the heads of all targets that share it."""
    heads = list(dict.fromkeys(target.digest for target in group))
    return Encode(id=uuid.uuid4().hex, prompt_ids=ids, adapters=group[0].adapters, heads=heads)


def check_heads(targets: Sequence[Target]) -> None:
    """Raises AdapterMismatch where a target has no head, or where bases differ."""
    for target in targets:
        if not target.has_head:
            raise AdapterMismatch(
                f"models: {target.model} has no head to classify with; "
                "train one with --method head",
                param="models",
            )
    names = {target.model: target.base.card.name for target in targets}
    if len(set(names.values())) > 1:
        which = ", ".join(f"{model} on {base}" for model, base in names.items())
        raise AdapterMismatch(
            f"models: those of one request must share a base ({which}); ask in several requests",
            param="models",
        )


def verdict(target: Target, answer: HeadAnswer) -> HeadResult:
    """Softmax over the head's logits, stable for large ones."""
    top = max(answer.logits)
    weights = [math.exp(logit - top) for logit in answer.logits]
    total = sum(weights)
    if not math.isfinite(total):
        raise ServerFault("numerical error: the head's outputs are not finite")
    probs = {label: w / total for label, w in zip(answer.labels, weights, strict=True)}
    label = max(probs, key=probs.__getitem__)
    return HeadResult(
        model=target.model,
        digest=target.digest,
        label=label,
        score=probs[label],
        probs=probs,
    )
