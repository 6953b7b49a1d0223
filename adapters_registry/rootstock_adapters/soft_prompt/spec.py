"""A soft prompt's config and its one tensor, named and laid out as PEFT saves it.

Refuses to know torch and how virtual tokens enter a pass.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.errors import ArtifactError
from rootstock_adapters.spec import PartSpec, Shapes

TENSOR = "prompt_embeddings"
# What architectures call the weight of their input embedding.
_EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings")


class SoftPromptSpec(PartSpec):
    """`num_virtual_tokens` learned tokens that stand before a request's own.

    `prompt_tuning` (Lester et al., arXiv 2104.08691) learns their input embeddings [P, D];
    `prefix_tuning` (Li and Liang, arXiv 2101.00190) their keys and values in every layer,
    [P, layers·2·H·D], as they lie in the cache: after any rotation, key before value.
    """

    kind: ClassVar[str] = "soft_prompt"
    before_pass: ClassVar[bool] = True

    method: Literal["prompt_tuning", "prefix_tuning"]
    num_virtual_tokens: int = Field(ge=1, le=1024)

    @property
    def virtual_tokens(self) -> int:
        return self.num_virtual_tokens

    def tensor_shapes(self, base: BaseCard) -> Shapes:
        if self.num_virtual_tokens >= base.context_length:
            raise ArtifactError(
                f"soft_prompt: num_virtual_tokens {self.num_virtual_tokens} leaves no room in the "
                f"context of {base.name} ({base.context_length} tokens)"
            )
        if base.task not in ("generate", "encode"):
            raise ArtifactError(
                f"soft_prompt: base {base.name} is an encoder-decoder, on which soft prompts are "
                "not served"
            )
        if self.method == "prompt_tuning":
            return {TENSOR: (self.num_virtual_tokens, _embedding_width(base))}
        if base.task != "generate":
            raise ArtifactError(
                f"soft_prompt: method prefix_tuning puts keys and values into a decoder's cache, "
                f"and base {base.name} has none; use prompt_tuning"
            )
        width = base.layers * 2 * _key_width(base)
        return {TENSOR: (self.num_virtual_tokens, width)}


def _embedding_width(base: BaseCard) -> int:
    """Of the input embedding: ALBERT's and ELECTRA's are narrower than the hidden state."""
    for name, shape in base.parameters.items():
        *_, module, last = ("", *name.split("."))
        if last == "weight" and module in _EMBEDDINGS and len(shape) == 2:
            return shape[1]
    return base.hidden_size


def _key_width(base: BaseCard) -> int:
    """Key heads times their size. Fused projections have as many key heads as query heads."""
    for module, (out_features, _) in base.linears.items():
        if module.endswith(".k_proj"):
            return out_features
    return base.hidden_size
