"""Heads of every shape in mixed packed batches, each against the plain model's hidden states.

The reference pools and classifies with its own few lines, one sequence at a time, in fp32.
"""

from __future__ import annotations

import pytest
import torch
from rootstock_adapters.head import op
from rootstock_adapters.head.spec import HeadSpec
from rootstock_adapters.kinds import parse_spec
from rootstock_registry import Lineage, NewPart
from rootstock_server.engine.request import Encoded, Failed
from safetensors.torch import save
from torch import Tensor

MODELS = ["llama", "gpt2", "gemma2", "bert", "distilbert"]
ACTS = {
    "relu": lambda z: z.clamp(min=0),
    "gelu": lambda z: z * 0.5 * (1 + torch.erf(z / 2**0.5)),
    "silu": lambda z: z / (1 + (-z).exp()),
    "tanh": torch.tanh,
}
POOLED = {
    "cls": lambda h: h[0], "last": lambda h: h[-1], "mean": lambda h: h.sum(0) / len(h),
    "max": lambda h: h.max(0).values, "none": lambda h: h,
}  # fmt: skip


def labels(count: int) -> tuple[str, ...]:
    return tuple(f"label-{i}" for i in range(count))


SHAPES = [
    HeadSpec(pooling="max", normalize=False, labels=labels(4)),
    HeadSpec(pooling="mean", normalize=True, labels=labels(3)),
    HeadSpec(pooling="mean", normalize=True, labels=labels(2), hidden=12, activation="gelu"),
    HeadSpec(pooling="cls", normalize=False, labels=labels(2), hidden=64, activation="tanh"),
    HeadSpec(pooling="last", normalize=True, labels=labels(5), hidden=7, activation="relu"),
    HeadSpec(pooling="none", normalize=False, labels=labels(3)),
    HeadSpec(pooling="none", normalize=True, labels=labels(4), hidden=9, activation="silu"),
    HeadSpec(pooling="mean", normalize=True, labels=labels(6)),
]


def add_heads(rig) -> dict[str, tuple[HeadSpec, dict[str, Tensor]]]:
    heads = {}
    for number, spec in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: 0.3 * torch.randn(shape, generator=generator)
            for name, shape in spec.tensor_shapes(rig.card).items()
        }
        part = NewPart(spec, save(tensors))
        version = rig.registry.publish(
            "local", f"head-{number}", rig.card, [part], lineage=Lineage(method="test")
        )
        heads[version.digest] = (spec, tensors)
    return heads


@torch.inference_mode()
def hidden_of(rig, prompt: list[int], version: str | None) -> Tensor:
    model = rig.reference(version)
    if rig.card.task == "encode":
        return model(input_ids=torch.tensor([prompt])).last_hidden_state[0]
    # transformers' own list ends with the final norm's output.
    out = model(input_ids=torch.tensor([prompt]), output_hidden_states=True)
    return out.hidden_states[-1][0]


def wanted(hidden: Tensor, spec: HeadSpec, tensors: dict[str, Tensor]) -> Tensor:
    z = POOLED[spec.pooling](hidden)
    if spec.normalize:
        z = z / z.square().sum(-1, keepdim=True).sqrt()
    if spec.hidden:
        z = ACTS[spec.activation](z @ tensors["hidden.weight"].T + tensors["hidden.bias"])
    return z @ tensors["weight"].T + tensors["bias"]


def check(rig, command, answer: Encoded, heads: dict) -> None:
    hidden = hidden_of(rig, command.prompt_ids, next((a.version for a in command.adapters), None))
    assert [each.version for each in answer.heads] == command.heads
    for each in answer.heads:
        spec, tensors = heads[each.version]
        assert each.labels == list(spec.labels)
        found = torch.tensor(each.token_logits if spec.pooling == "none" else each.logits)
        assert bool(each.logits) != bool(each.token_logits)
        expected = wanted(hidden, spec, tensors)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize("model", MODELS)
def test_heads_of_every_shape_read_one_pass_of_mixed_rows(rig, model):
    one = rig(model, max_batch_tokens=40)  # decoders read long texts in chunks
    heads = add_heads(one)
    order = [*heads][3:] + [*heads][:3]
    commands = [
        one.encode([10 + (7 * i + 13 * j) % 100 for j in range(5 + 6 * i)], version, order[: 8 - i])
        for i, version in enumerate([None, *one.adapters, None])
    ]
    if one.card.task == "generate":
        talking = one.generate([30, 40, 50], one.adapters[0])
    else:
        talking = one.encode([30, 40, 50], one.adapters[0], [])
    answers = one.run([*commands, talking])
    for command in commands:
        [answer] = answers[command.id]
        check(one, command, answer, heads)
    one.check(talking, answers[talking.id])


def test_a_head_read_from_a_neighbours_tokens_is_caught(rig, monkeypatch):
    one = rig("bert")
    heads = add_heads(one)
    right = op.pool

    def shifted(hidden, mask, pooling, normalize):
        return right(hidden.roll(1, dims=1), mask, pooling, normalize)

    monkeypatch.setattr(op, "pool", shifted)
    command = one.encode([20, 30, 40, 50], None, [*heads])
    [answer] = one.run([command])[command.id]
    with pytest.raises(AssertionError):
        check(one, command, answer, heads)


def test_a_stacked_head_given_its_neighbours_rows_is_caught(rig, monkeypatch):
    one = rig("bert")
    heads = add_heads(one)
    right = op._stacked
    monkeypatch.setattr(op, "_stacked", lambda pooled, each: right(pooled, each[::-1]))
    command = one.encode([20, 30, 40, 50], None, [*heads])
    [answer] = one.run([command])[command.id]
    with pytest.raises(AssertionError):
        check(one, command, answer, heads)


def test_pooling_skips_padding_in_every_way():
    hidden = torch.randn(2, 5, 8)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for pooling in ("cls", "mean", "last", "max"):
        pooled = op.pool(hidden, mask, pooling, normalize=False)
        for row, length in enumerate((3, 5)):
            expected = POOLED[pooling](hidden[row, :length])
            assert (pooled[row] - expected).abs().max() < 1e-6


def test_a_version_of_lora_and_head_changes_and_reads_the_same_pass(rig):
    one = rig("llama")
    spec, generator = SHAPES[4], torch.Generator().manual_seed(4)
    tensors = {
        name: 0.3 * torch.randn(shape, generator=generator)
        for name, shape in spec.tensor_shapes(one.card).items()
    }
    manifest = one.registry.manifest(one.adapters[1])
    [part] = manifest.parts
    lora = NewPart(parse_spec(part.kind, dict(part.config)), one.registry.blobs.get(part.blob))
    both = one.registry.publish(
        "local", "both", one.card, [lora, NewPart(spec, save(tensors))],
        lineage=Lineage(method="test"),
    ).digest  # fmt: skip
    one._references[both] = one.reference(one.adapters[1])
    command = one.encode([20 + n for n in range(9)], both, [both])
    plain = one.encode([20 + n for n in range(9)], None, [])
    answers = one.run([command, plain])
    [answer] = answers[command.id]
    assert not isinstance(answer, Failed)
    check(one, command, answer, {both: (spec, tensors)})
