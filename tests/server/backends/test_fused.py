"""What is swapped computes the same, and whatever only looks alike stays as it was."""

from __future__ import annotations

import pytest
import torch
from rootstock_server.backends.cpu import cpu
from rootstock_server.backends.fused import FusedGate, FusedNorm
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2Model,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    Qwen3Config,
    Qwen3Model,
)

if not cpu.available():
    pytest.skip("the kernels were not built: make setup", allow_module_level=True)

SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "initializer_range": 0.3,
}  # fmt: skip
NEOX = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}
# (norms, gates, attentions) that are swapped in two layers
MODELS = {
    "llama": (lambda: LlamaModel(LlamaConfig(**SIZES)), (5, 2, 2)),
    "gemma2": (lambda: Gemma2Model(Gemma2Config(**SIZES)), (9, 2, 2)),
    "qwen3": (lambda: Qwen3Model(Qwen3Config(**SIZES)), (9, 2, 2)),
    "gpt_neox": (lambda: GPTNeoXModel(GPTNeoXConfig(**NEOX, rotary_pct=0.5)), (0, 0, 2)),
    "gpt2": (
        lambda: GPT2Model(GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4)),
        (0,) * 3,
    ),
}


def swapped(model: nn.Module) -> tuple[int, int, int]:
    modules = list(model.modules())
    return (
        sum(isinstance(module, FusedNorm) for module in modules),
        sum(isinstance(module, FusedGate) for module in modules),
        sum("forward" in vars(module) for module in modules),
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_model_with_swapped_parts_answers_as_before(name, dtype):
    torch.manual_seed(0)
    build, count = MODELS[name]
    model = build().to(dtype).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    ids = torch.randint(0, 50, (1, 9))
    wanted = model(ids).last_hidden_state
    cpu.Cpu().adopt(model)
    assert swapped(model) == count
    tolerance = 1e-4 if dtype == torch.float32 else 6e-2
    found = model(ids).last_hidden_state
    torch.testing.assert_close(found, wanted, atol=tolerance * float(wanted.abs().max()), rtol=0)


class Doubled(nn.Module):
    """Looks like an RMSNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.randn(16)), 1e-6

    def forward(self, x):
        return 2 * self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class Crossed(nn.Module):
    """Looks like a gated MLP, with its gate where others have their up."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, 24), nn.Linear(16, 24)
        self.down_proj, self.act_fn = nn.Linear(24, 16), nn.SiLU()

    def forward(self, x):
        return self.down_proj(self.gate_proj(x) * self.act_fn(self.up_proj(x)))


def apply_rotary_pos_emb(q, k, cos, sin):
    """Interleaved pairs, as some do it, under the name that others use."""
    pairs = torch.stack((-q[..., 1::2], q[..., ::2]), -1).flatten(-2)
    return q * cos[:, None] + pairs * sin[:, None], k


class Interleaved(nn.Module):
    def forward(self, q, k, cos, sin):
        return apply_rotary_pos_emb(q, k, cos, sin)


def test_parts_that_only_look_alike_stay():
    model = nn.Sequential(Doubled(), nn.LayerNorm(16, bias=False), Crossed(), Interleaved())
    before = [type(module) for module in model]
    cpu.Cpu().adopt(model)
    assert [type(module) for module in model] == before
    assert swapped(model) == (0, 0, 0)


def test_a_gate_whose_activation_has_no_kernel_stays():
    mlp = Crossed()
    mlp.act_fn = nn.Tanh()
    model = nn.Sequential(mlp)
    cpu.Cpu().adopt(model)
    assert model[0] is mlp
