"""Every noun of the engine's loop and of the socket in front of it.

Messages are msgspec structs, framed as msgpack. They know token ids and version digests;
they refuse to know text, tenants, aliases and routes.
"""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn. Names and meanings are OpenAI's and vLLM's."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    seed: int | None = None
    ignore_eos: bool = False
    logprobs: int | None = None  # None: none. k: the chosen token's and the k best


class Generate(msgspec.Struct, frozen=True, tag="generate", kw_only=True):
    """Continue `prompt_ids` with the base as changed by `version` (None: the base alone)."""

    id: str
    prompt_ids: list[int]
    version: str | None
    sampling: Sampling


class Encode(msgspec.Struct, frozen=True, tag="encode", kw_only=True):
    """One pass over one text: its embedding, and the logits of any number of heads.

    `version` is the version whose weights change the pass (None: the base alone); `heads` are the
    digests of versions whose `head` part is read out from that pass.
    """

    id: str
    prompt_ids: list[int]
    version: str | None
    heads: list[str]
    embed: bool = False


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: str


Command = Generate | Encode | Cancel


class Token(msgspec.Struct, frozen=True, tag="token", kw_only=True):
    """One generated token. `finish_reason` is set on the last one of a request."""

    id: str
    token_id: int
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = []
    finish_reason: str | None = None  # stop | length


class HeadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    labels: list[str]
    logits: list[float]


class Encoded(msgspec.Struct, frozen=True, tag="encoded", kw_only=True):
    id: str
    embedding: list[float] | None
    heads: list[HeadAnswer]


class Failed(msgspec.Struct, frozen=True, tag="failed", kw_only=True):
    """The request ended without an answer. `error` is a class name of `rootstock_server.errors`."""

    id: str
    error: str
    message: str


class Resident(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    bytes: int
    leases: int


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat", kw_only=True):
    """Sent at least once a second by a living engine, between steps."""

    running: int
    waiting: int
    kv_blocks_used: int
    kv_blocks: int
    steps: int
    resident: list[Resident]


Event = Token | Encoded | Failed | Heartbeat
