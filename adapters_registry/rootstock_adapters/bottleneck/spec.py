"""A bottleneck part's config and tensors, and where its layers stand in each architecture.

Refuses to know torch and how the layers are computed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.delta.spec import canonical
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.layers import check_layers, inside_layer
from rootstock_adapters.spec import MAX_SCALING, Modules, PartSpec, Shapes

Placement = Literal["houlsby", "pfeiffer", "seq_bn"]

# The linear that ends a sublayer, as architectures name it inside a layer.
ATTENTION_OUTPUTS = frozenset({
    "self_attn.o_proj",  # Llama, Mistral, Qwen, Gemma
    "self_attn.dense",  # Phi
    "self_attn.out_proj", "encoder_attn.out_proj",  # OPT, M2M100
    "attn.c_proj",  # GPT-2
    "attn.Wo",  # ModernBERT
    "attention.dense",  # GPT-NeoX, ALBERT
    "attention.output.dense",  # BERT, RoBERTa, ELECTRA
    "attention.out_lin",  # DistilBERT
    "SelfAttention.o", "EncDecAttention.o",  # T5
})  # fmt: skip
FEED_FORWARD_OUTPUTS = frozenset({
    "mlp.down_proj",  # Llama, Mistral, Qwen, Gemma
    "mlp.fc2",  # Phi
    "fc2",  # OPT, M2M100
    "mlp.c_proj",  # GPT-2
    "mlp.Wo",  # ModernBERT
    "mlp.dense_4h_to_h",  # GPT-NeoX
    "ffn_output",  # ALBERT
    "output.dense",  # BERT, RoBERTa, ELECTRA
    "ffn.lin2",  # DistilBERT
    "DenseReluDense.wo",  # T5
})  # fmt: skip
# The norm of a sublayer's output and its residual, where a base normalizes their sum.
POST_NORMS = frozenset({
    "attention.output.LayerNorm", "output.LayerNorm",  # BERT, RoBERTa, ELECTRA
    "sa_layer_norm", "output_layer_norm",  # DistilBERT
})  # fmt: skip
OUTPUTS: dict[Placement, frozenset[str]] = {
    "houlsby": ATTENTION_OUTPUTS | FEED_FORWARD_OUTPUTS,
    "pfeiffer": FEED_FORWARD_OUTPUTS,
    "seq_bn": POST_NORMS,
}


class BottleneckSpec(PartSpec):
    """`y ← y + scaling · (up · act(down · y + b₁) + b₂)` for the linears in `target_modules`.

    `y` is the output of the linear that ends a sublayer, bias and other parts' low-rank updates
    included, before anything else is done to it. `houlsby` is Houlsby et al. (arXiv 1902.00751):
    behind the attention's and behind the feed-forward's output, before the residual is added; where
    a base normalizes a sublayer's output before that (Gemma 2 and 3), before that norm, too.
    `pfeiffer` is the same layer behind the feed-forward only, the place that Pfeiffer et al. (arXiv
    2005.00247) found best. AdapterHub's configs of these names, on post-norm bases (BERT): its
    `double_seq_bn` is our `houlsby`; its `seq_bn` is not our `pfeiffer`: there `down` reads the
    base's layer norm of output and residual, `z`. It is the placement `seq_bn` here, which targets
    such norms: `norm(z) → norm(z + scaling · (up · act(down · norm(z) + b₁) + b₂))`.

    Any subset of the layers may be targeted. `gelu` is the exact one.
    """

    kind: ClassVar[str] = "bottleneck"

    placement: Placement
    size: int = Field(ge=1, le=4096)  # width of the bottleneck
    nonlinearity: Literal["relu", "gelu", "silu"]
    scaling: float = Field(default=1.0, ge=-MAX_SCALING, le=MAX_SCALING)
    target_modules: Modules = Field(min_length=1)

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        fitting = set(sublayer_outputs(base, self.placement))
        shapes: Shapes = {}
        for module in self.target_modules:
            if module not in fitting:
                raise ArtifactError(
                    f"bottleneck: target_modules: base {base.name} has no sublayer that ends in "
                    f"{module} for the placement {self.placement}"
                )
            width = base.linears[module][0] if module in base.linears else base.hidden_size
            shapes[f"{module}.down.weight"] = (self.size, width)
            shapes[f"{module}.down.bias"] = (self.size,)
            shapes[f"{module}.up.weight"] = (width, self.size)
            shapes[f"{module}.up.bias"] = (width,)
        return shapes


def sublayer_outputs(
    card: BaseCard, placement: Placement, layers: Collection[int] | None = None
) -> tuple[str, ...]:
    """The modules that `placement` means in the given layers (None: all), in the base's order.

    Linears, or, of `seq_bn`, norms.

    Raises ArtifactError for a layer that the base lacks or does not have for itself.
    """
    if layers is not None:
        check_layers(card, layers)
    norms = {canonical(name).removesuffix(".weight") for name in card.parameters}
    ends = {
        path: inside[0]
        for path in (norms if placement == "seq_bn" else card.linears)
        if (inside := inside_layer(path)) and inside[1] in OUTPUTS[placement]
    }
    order = sorted(ends, key=lambda path: (ends[path], path))
    return tuple(path for path in order if layers is None or ends[path] in layers)
