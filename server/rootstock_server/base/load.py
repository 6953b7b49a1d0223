"""Load a Hugging Face folder and make it ready to be shared: frozen, packed, adaptable, proven.

Refuses to know adapters; it only leaves the places where they attach.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rootstock_adapters.architectures import position_offset
from rootstock_adapters.errors import BaseError
from rootstock_adapters.op import Place
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
)

from rootstock_server.backends.backend import Backend
from rootstock_server.backends.kv_cache import KvCache
from rootstock_server.backends.select import backend_for
from rootstock_server.backends.step import Step, running
from rootstock_server.base.attention import use_packed_attention
from rootstock_server.base.encoder_decoder import EncoderDecoder
from rootstock_server.base.linears import LinearGroup, LinearPlace, adapt
from rootstock_server.base.modules import Hooks, ModulePlace
from rootstock_server.errors import AdapterMismatch

if TYPE_CHECKING:  # an engine runs without pydantic where somebody else has read the card
    from rootstock_adapters.base_card import BaseCard

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
FAMILIES = {
    "generate": AutoModelForCausalLM,
    "encode": AutoModel,
    "text2text": AutoModelForSeq2SeqLM,
}
BATCH_DEPENDENT_ROPE = frozenset({"dynamic", "longrope"})


@dataclass
class Base:
    """A frozen base, ready for packed steps. `forward` is the only way through it."""

    card: BaseCard
    dtype: torch.dtype
    backend: Backend
    backbone: nn.Module
    groups: list[LinearGroup]
    output: LinearGroup | None  # the last of the groups; None for encoders
    softcap: float | None  # of the final logits (Gemma 2)
    position_offset: int
    eos_ids: frozenset[int]
    kv_heads: int
    head_dim: int
    hooks: Hooks
    halves: EncoderDecoder | None = None

    @torch.inference_mode()
    def forward(self, step: Step) -> Tensor:
        """Last hidden states [T, hidden] of a packed step."""
        step.backend = self.backend
        if step.changes:
            self.hooks.cover(step.changes.keys() - self._linears.keys())
        if self.halves is not None:  # what they remember is of one request: nothing to replay
            with running(step):
                return self.halves.forward(step)
        return self.backend.run(step, self._eager)

    def _eager(self, step: Step) -> Tensor:
        device = self.backend.device
        with running(step):
            positions = step.positions.to(device, non_blocking=True) + self.position_offset
            out = self.backbone(
                input_ids=step.token_ids.to(device, non_blocking=True)[None],
                position_ids=positions[None],
                **({"use_cache": False} if self.output else {}),
            )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor, step: Step | None = None) -> Tensor:
        """Next-token logits [S, vocabulary] fp32 of hidden states [S, hidden].

        `step` says what is attached to the output linear, row i of it being `hidden[i]`.
        """
        if self.output is None:
            raise RuntimeError("an encoder has no next-token logits")
        hidden = hidden * self.halves.output_scale if self.halves else hidden
        nothing = torch.empty(0, dtype=torch.long)
        with running(step or Step(nothing, nothing, ())):
            logits = self.output.run(hidden)[0].float()
        return torch.tanh(logits / self.softcap) * self.softcap if self.softcap else logits

    @cached_property
    def embedding(self) -> str:
        """Module path of the input embedding, where virtual tokens take their places."""
        module = self.backbone.get_input_embeddings()  # type: ignore[operator]
        return next(path for path, each in self.backbone.named_modules() if each is module)

    def place(self, path: str) -> Place:
        """Where changes of the module `path` attach. Raises AdapterMismatch where there is none."""
        if path in self._linears:
            return LinearPlace(*self._linears[path])
        try:
            module = self.backbone.get_submodule(path)
        except AttributeError:
            raise AdapterMismatch(f"this base has no module named {path}") from None
        return ModulePlace(module)

    @cached_property
    def _linears(self) -> dict[str, tuple[LinearGroup, int]]:
        return {path: (g, m) for g in self.groups for m, path in enumerate(g.paths)}

    def new_cache(self, mebibytes: int) -> KvCache | None:
        """A cache of at most `mebibytes` MiB; None for encoders, which keep nothing."""
        if self.output is None:
            return None
        layers = self.card.layers
        per_block = KvCache.block_bytes(layers, self.kv_heads, self.head_dim, self.dtype)
        blocks = max(1, (mebibytes << 20) // per_block)
        if self.halves is not None and self.halves.relative:
            layers = 0  # blocks are counted all the same: they bound what the memories hold
        return self.backend.new_cache(layers, blocks, self.kv_heads, self.head_dim, self.dtype)


def load_model(path: Path, card: BaseCard, dtype: str) -> PreTrainedModel:
    """The untouched model, frozen, with its own eager attention: what parity is measured against.

    Raises BaseError where transformers cannot load the folder.
    """
    options = {
        "attn_implementation": "eager", "output_loading_info": True,
        "use_safetensors": True, "trust_remote_code": False, "local_files_only": True,
    }  # fmt: skip
    if card.model_type in ("bert", "roberta", "albert"):  # the others make no pooler
        options["add_pooling_layer"] = False
    try:
        options["dtype"] = resolve_dtype(path, dtype)
        model, report = FAMILIES[card.task].from_pretrained(path, **options)
    except BaseError:
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        raise BaseError(f"base {card.name}: {path} cannot be loaded: {error}") from error
    if report["missing_keys"]:  # transformers would make up random weights for them
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise BaseError(f"base {card.name}: {path} has no weights for {missing}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().requires_grad_(False).to(device)


def prepare(model: PreTrainedModel, card: BaseCard, backend: Backend | None = None) -> Base:
    """Make `model` packed and adaptable, in place; without a `backend`, its device chooses.

    Raises BaseError where one request could change the answer of another.
    """
    config = model.config
    _refuse_shared_positions(model, card)
    generates = card.task != "encode"
    backbone = _backbone(model) if generates else model
    dtype = model.dtype
    backend = backend or backend_for(model.device, dtype)
    heads = getattr(config, "decoder_attention_heads", None) or config.num_attention_heads
    use_packed_attention(model)
    groups = adapt(backbone, backend)
    backend.adopt(backbone)
    output = None
    if generates:
        linear = model.get_output_embeddings()
        path = next(name for name, module in model.named_modules() if module is linear)
        output = LinearGroup(backend, len(groups), [path], [linear])
        groups.append(output)
    return Base(
        card=card,
        dtype=dtype,
        backend=backend,
        backbone=backbone,
        groups=groups,
        output=output,
        softcap=getattr(config, "final_logit_softcapping", None),
        position_offset=position_offset(config.to_dict()),
        eos_ids=_eos_ids(model),
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        hooks=Hooks(backbone),
        halves=EncoderDecoder(backbone, model) if card.task == "text2text" else None,
    )


def _backbone(model: PreTrainedModel) -> nn.Module:
    """All but the output embedding. T5 has no module of its own for that."""
    if hasattr(model, model.base_model_prefix):
        return getattr(model, model.base_model_prefix)
    return nn.ModuleDict({"encoder": model.encoder, "decoder": model.decoder})


def _refuse_shared_positions(model: PreTrainedModel, card: BaseCard) -> None:
    """These rotary embeddings choose their frequencies by the longest row of the batch."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        for kind in kinds.values() if isinstance(kinds, dict) else [kinds]:
            if kind in BATCH_DEPENDENT_ROPE:
                raise BaseError(
                    f"base {card.name}: its rope_type {kind!r} scales a request by the length of "
                    "its neighbours, so it is not served; use a model with linear, yarn or llama3 "
                    "scaling"
                )


def resolve_dtype(path: Path, dtype: str) -> torch.dtype:
    """`auto` is the folder's own dtype, or fp32 where this CPU has no fast bf16.

    So it is with `int8`, which is how linears are kept: all else has the dtype of `auto`.
    """
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype not in ("auto", "int8"):
        raise BaseError(f"dtype {dtype!r} is not served (use auto, float32, bfloat16 or int8)")
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(path, local_files_only=True).dtype
    fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if stored == torch.bfloat16 and fast else torch.float32


def _eos_ids(model: PreTrainedModel) -> frozenset[int]:
    generation: GenerationConfig | None = getattr(model, "generation_config", None)
    eos = generation.eos_token_id if generation else None
    if eos is None:
        eos = getattr(model.config, "eos_token_id", None)
    return frozenset([eos] if isinstance(eos, int) else eos or [])
