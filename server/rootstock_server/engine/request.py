"""Every noun of the engine's loop and of the socket in front of it.

Messages are msgspec structs, framed as msgpack. They know token ids and version digests;
they refuse to know text, tenants, aliases and routes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:  # the front end reads these nouns without torch
    import torch
    from rootstock_adapters.op import Virtual

    from rootstock_server.adapters.residency import Applied, ResidentVersion
    from rootstock_server.backends.memory import Memory
    from rootstock_server.engine.grammar import Matcher
    from rootstock_server.engine.penalties import Penalties


class Grammar(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must be, in llguidance's language; `field` of the request asked for it."""

    text: str
    field: str


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is drawn. Names and meanings are OpenAI's and vLLM's."""

    max_tokens: int
    min_tokens: int = 0
    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # 0 is off
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # 1 is off
    logit_bias: dict[int, float] = {}  # by token id
    seed: int | None = None
    ignore_eos: bool = False
    grammar: Grammar | None = None
    logprobs: int | None = None  # None: none. k: the chosen token's and the k best


class Adapter(msgspec.Struct, frozen=True):
    """A version that acts on a request's rows, by its digest; `scale` multiplies what it does."""

    version: str
    scale: float = 1.0


class Generate(msgspec.Struct, frozen=True, tag="generate", kw_only=True):
    """Continue `prompt_ids` with the base as changed by `adapters` (none: the base alone).

    Of an encoder-decoder: the encoder reads the first `source` of them, the decoder the others.
    """

    id: str
    prompt_ids: list[int]
    sampling: Sampling
    source: int = 0
    adapters: list[Adapter] = []
    owner: str = ""  # an opaque key: turns are shared between owners, cached prefixes are not
    # By time.monotonic, which both processes of one machine share and nobody sets; later, nobody
    # waits for the answer.
    deadline: float | None = None


class Encode(msgspec.Struct, frozen=True, tag="encode", kw_only=True):
    """One pass over one text: its embedding, and the logits of any number of heads.

    `adapters` change the pass (none: the base alone); `heads` are the digests of versions whose
    `head` part is read out from that pass.
    """

    id: str
    prompt_ids: list[int]
    heads: list[str]
    adapters: list[Adapter] = []
    embed: bool = False
    owner: str = ""
    deadline: float | None = None


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: str


class Pin(msgspec.Struct, frozen=True, tag="pin"):
    """Exactly these versions stay resident, whether somebody asks for them or not."""

    versions: list[str]


Command = Generate | Encode | Cancel | Pin


class Token(msgspec.Struct, frozen=True, tag="token", kw_only=True):
    """One generated token. `finish_reason` is set on the last one of a request."""

    id: str
    token_id: int
    logprob: float | None = None
    top_logprobs: list[tuple[int, float]] = []
    finish_reason: str | None = None  # stop | length


class HeadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One head's logits: of the text, or of each of its tokens where the head labels tokens."""

    version: str
    labels: list[str]
    logits: list[float] = []
    token_logits: list[list[float]] = []


class Encoded(msgspec.Struct, frozen=True, tag="encoded", kw_only=True):
    id: str
    embedding: list[float] | None
    heads: list[HeadAnswer]


class Failed(msgspec.Struct, frozen=True, tag="failed", kw_only=True):
    """The request ended without an answer. `error` is a class name of `rootstock_server.errors`."""

    id: str
    error: str
    message: str
    param: str | None = None  # the field at fault


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
    preemptions: int
    prefix_hit_tokens: int  # prompt tokens that were found in the cache
    resident: list[Resident]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine process is told at its start; `card` and `limits` are pydantic's JSON."""

    address: str
    base_path: str
    card: str
    home: str
    dtype: str
    limits: str


class Started(msgspec.Struct, frozen=True, tag="started", kw_only=True):
    """The engine's first event: the base is loaded and packed rows equal single ones."""

    dtype: str
    backend: str
    parity_error: float  # relative to the largest output of the probe
    seconds: float


Event = Token | Encoded | Failed | Heartbeat | Started


@dataclass(eq=False)
class Request:
    """A command on its way through the engine. Only the engine's thread touches it."""

    command: Generate | Encode
    # Placeholders for its virtual tokens, the prompt, then what was generated.
    tokens: list[int]
    computed: int = 0  # how many of them the base has seen
    virtual_tokens: int = 0  # how many of them have no ids; known once admitted
    blocks: tuple[int, ...] = ()  # its share of the KV cache
    keyed: int = 0  # how many of them the cache knows by their key
    leases: dict[str, ResidentVersion] = field(default_factory=dict)  # by digest, once admitted
    generator: torch.Generator | None = None  # its own random numbers, so batches cannot matter
    penalties: Penalties | None = None  # its own counts of tokens, where a field asks for them
    matcher: Matcher | None = None  # its own place in its grammar, where it has one
    # Encode: [t, D] of each chunk, by its first token: a step that is run again changes nothing.
    hidden: dict[int, torch.Tensor] = field(default_factory=dict)
    source: int = 0  # how many of the tokens an encoder reads, whole, before a decoder goes on
    memory: Memory | None = None  # what the decoder keeps of them

    @property
    def id(self) -> str:
        return self.command.id

    @property
    def owner(self) -> str:
        return self.command.owner

    @property
    def pending(self) -> int:
        """Tokens that the base has not seen yet; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def reading(self) -> bool:
        """Whether its next tokens are an encoder's."""
        return self.computed < self.source

    @property
    def forgotten(self) -> int:
        """How many of its tokens leave no keys behind: those of a source that is only encoded."""
        return self.source if isinstance(self.command, Encode) else 0

    @property
    def position(self) -> int:
        """Of its next token, in the half of the base that reads it."""
        return self.computed if self.reading else self.computed - self.source

    @property
    def most_tokens(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        command = self.command
        new = command.sampling.max_tokens if isinstance(command, Generate) else 0
        return len(command.prompt_ids) + new

    @property
    def untrusted_blocks(self) -> tuple[int, ...]:
        """Blocks from which nothing sound was read yet: what is in them may not be finite."""
        return () if self.generated else self.blocks[self.keyed :]

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.virtual_tokens - len(self.command.prompt_ids)

    @property
    def own_tokens(self) -> list[int]:
        """The prompt and what was generated: `tokens` without placeholders."""
        return self.tokens[self.virtual_tokens :] if self.virtual_tokens else self.tokens

    @cached_property
    def virtual(self) -> Virtual | None:
        """What stands before the prompt; once admitted."""
        resident = (version.prepared.virtual for version, _ in self.applied)
        return next((virtual for virtual in resident if virtual), None)

    def make_room(self, virtual_tokens: int) -> None:
        """Let that many placeholders stand before the prompt: virtual tokens take positions."""
        if not self.virtual_tokens:
            self.tokens[:0] = [0] * virtual_tokens
            self.virtual_tokens = virtual_tokens

    def skip_ahead(self) -> None:
        """What is put into the cache as keys and values needs no computing. Once admitted."""
        if self.virtual is not None and self.virtual.keys_values is not None:
            self.computed = max(self.computed, self.virtual_tokens)

    @property
    def decoding(self) -> bool:
        return self.computed > 0 and self.generated > 0 and self.pending == 1

    @cached_property
    def versions(self) -> frozenset[str]:
        """Digests of every version this request needs resident."""
        heads = self.command.heads if isinstance(self.command, Encode) else []
        return frozenset([*heads, *(adapter.version for adapter in self.command.adapters)])

    @property
    def applied(self) -> tuple[Applied, ...]:
        """What acts on this request's rows, in order; once admitted."""
        return tuple((self.leases[a.version], a.scale) for a in self.command.adapters)


@dataclass(frozen=True)
class Share:
    """A request's part of one step: its next `tokens` pending tokens."""

    request: Request
    tokens: int

    @property
    def completes(self) -> bool:
        """Whether the base has then seen all there is, so that an output can be read."""
        return self.tokens == self.request.pending


@dataclass(frozen=True)
class Batch:
    """What one step runs: decode shares (one token each) first, then prefill chunks."""

    shares: tuple[Share, ...]
    decode_rows: int

    def apart(self) -> list[Batch]:
        """The same shares, each in a batch of its own."""
        return [
            Batch((share,), decode_rows=int(number < self.decode_rows))
            for number, share in enumerate(self.shares)
        ]


@dataclass(frozen=True)
class Sampled:
    token_id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Fault:
    """This row, and only this row, has no answer."""

    error: str
    message: str
    param: str | None = None


# What a share's hidden states became; None while a prompt is still being read.
Output = Sampled | Encoded | Fault | None
