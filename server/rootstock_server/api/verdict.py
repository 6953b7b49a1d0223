"""Heads' passes and verdicts: which heads share a pass, and what their logits say.

Refuses to know who asked and how a pass is run.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence

from rootstock_wire.native import HeadResult, LabelledToken, TokensResult

from rootstock_server.api.target import Target
from rootstock_server.base.tokenizer import Piece
from rootstock_server.engine.request import Encode, HeadAnswer
from rootstock_server.errors import AdapterMismatch, ServerFault

OUTSIDE = "O"  # of every named entity (Ramshaw and Marcus, cmp-lg/9505040); not worth a mention


def head_pass(group: Sequence[Target], ids: list[int]) -> Encode:
    """One pass over a text, read out by the heads of all targets that share it."""
    heads = list(dict.fromkeys(target.digest for target in group))
    return Encode(id=uuid.uuid4().hex, prompt_ids=ids, adapters=group[0].adapters, heads=heads)


def by_pass(targets: Sequence[Target]) -> list[list[Target]]:
    """`targets` in groups whose heads read one and the same pass over one and the same text."""
    groups: dict[object, list[Target]] = {}
    for target in targets:
        groups.setdefault((tuple(target.adapters), target.prompt), []).append(target)
    return list(groups.values())


def made_by(targets: Sequence[Target]) -> str:
    """Every version that has a part in the answer, once."""
    return ",".join(dict.fromkeys(digest for target in targets for digest in target.digests))


def check_heads(targets: Sequence[Target]) -> None:
    """Raises AdapterMismatch where a target has no head, or where bases differ."""
    for target in targets:
        if not target.has_head:
            raise AdapterMismatch(
                f"models: {target.model} has no head to classify with; "
                "train one with --method head",
                param="models",
            )
        if target.labels_tokens and target.prompt:
            raise AdapterMismatch(
                f"models: {target.model} labels the tokens of a text, and a prompt would put "
                "others around them; leave the prompt out",
                param="models",
            )
    names = {target.model: target.base.card.name for target in targets}
    if len(set(names.values())) > 1:
        which = ", ".join(f"{model} on {base}" for model, base in names.items())
        raise AdapterMismatch(
            f"models: those of one request must share a base ({which}); ask in several requests",
            param="models",
        )


def pieces_of(targets: Sequence[Target], texts: Sequence[str]) -> list[list[Piece]]:
    """What the tokens of each text stand for, where a head labels tokens."""
    if not any(target.labels_tokens for target in targets):
        return [[] for _ in texts]
    tokenizer = targets[0].base.tokenizer
    return [tokenizer.pieces(text) for text in texts]


def verdict(
    target: Target, answer: HeadAnswer, pieces: Sequence[Piece]
) -> HeadResult | TokensResult:
    """What the head says of the text, or of each of its tokens, which `pieces` describe."""
    if target.labels_tokens:
        return TokensResult(
            model=target.model, digest=target.digest, tokens=_labelled(answer, pieces)
        )
    probs = _softmax(answer.labels, answer.logits)
    label = max(probs, key=probs.__getitem__)
    return HeadResult(
        model=target.model,
        digest=target.digest,
        label=label,
        score=probs[label],
        probs=probs,
    )


def _labelled(answer: HeadAnswer, pieces: Sequence[Piece]) -> list[LabelledToken]:
    tokens = []
    for index, (piece, logits) in enumerate(zip(pieces, answer.token_logits, strict=True)):
        probs = _softmax(answer.labels, logits)
        label = max(probs, key=probs.__getitem__)
        if not piece.special and label != OUTSIDE:
            token = LabelledToken(
                entity=label, score=probs[label], index=index,
                word=piece.word, start=piece.start, end=piece.end,
            )  # fmt: skip
            tokens.append(token)
    return tokens


def _softmax(labels: Sequence[str], logits: Sequence[float]) -> dict[str, float]:
    """Stable for large logits. Raises ServerFault where they are not finite."""
    top = max(logits)
    weights = [math.exp(logit - top) for logit in logits]
    total = sum(weights)
    if not math.isfinite(total):
        raise ServerFault("numerical error: the head's outputs are not finite")
    return {label: weight / total for label, weight in zip(labels, weights, strict=True)}
