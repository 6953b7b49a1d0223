"""A classifier that PEFT tuned is served as PEFT serves it: backbone and head in one version."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from rootstock_adapters.bottleneck.spec import BottleneckSpec, sublayer_outputs
from rootstock_registry import Lineage, NewPart
from rootstock_server.engine.request import Encoded
from safetensors.torch import save
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

PROMPTS = [[10 + (7 * row + 13 * j) % 100 for j in range(20 - 3 * row)] for row in range(3)]


def tuned(rig, folder, config):
    """The rig's base as a task model, tuned, saved by PEFT and imported; and PEFT's own model."""
    auto = {
        "SEQ_CLS": AutoModelForSequenceClassification,
        "TOKEN_CLS": AutoModelForTokenClassification,
    }[config.task_type]
    settings = AutoConfig.from_pretrained(rig.base_path, num_labels=3)
    torch.manual_seed(0)
    model = auto.from_config(settings, attn_implementation="eager")
    getattr(model, model.base_model_prefix).load_state_dict(backbone(rig), strict=False)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    wrapped.save_pretrained(folder)
    again = auto.from_config(settings, attn_implementation="eager")
    again.load_state_dict(fresh)
    version = rig.registry.import_peft("local", "own", folder, rig.card)
    return version, PeftModel.from_pretrained(again, folder).eval()


def backbone(rig) -> dict[str, torch.Tensor]:
    plain = rig.load_plain()
    inner = plain if rig.card.task == "encode" else plain.base_model
    return inner.state_dict()


@pytest.mark.parametrize(
    ("base", "config"),
    [
        ("llama", LoraConfig(task_type="SEQ_CLS", use_dora=True, target_modules=["q_proj"])),
        ("llama", IA3Config(task_type="TOKEN_CLS")),
        ("bert", LoraConfig(task_type="SEQ_CLS", modules_to_save=["pooler"])),
        ("distilbert", LoraConfig(
            task_type="SEQ_CLS", target_modules=["q_lin", "lin2"],
            modules_to_save=["pre_classifier"],
        )),
    ],
)  # fmt: skip
def test_every_text_of_a_mixed_batch_is_classified_as_peft_classifies_it_alone(
    rig, base, config, tmp_path
) -> None:
    one = rig(base)
    version, model = tuned(one, tmp_path / "own", config)
    assert [part.kind for part in version.manifest.parts][1:] == ["head"]
    commands = [one.encode(ids, version.digest, [version.digest]) for ids in PROMPTS]
    others = [one.encode(ids, one.adapters[0], [next(iter(one.heads))]) for ids in PROMPTS]
    answers = one.run([command for pair in zip(commands, others, strict=True) for command in pair])
    for command in commands:
        [answer] = answers[command.id]
        assert isinstance(answer, Encoded), answer
        [head] = answer.heads
        with torch.inference_mode():
            wanted = model(torch.tensor([command.prompt_ids])).logits[0]
        found = head.token_logits if config.task_type == "TOKEN_CLS" else head.logits
        torch.testing.assert_close(torch.tensor(found), wanted, rtol=0, atol=1e-4)
    for command in others:
        one.check(command, answers[command.id])


def test_a_bottleneck_behind_a_post_norm_is_served_in_a_mixed_batch(rig, tmp_path) -> None:
    one = rig("bert")
    digest, model = behind_norms(one)
    commands = [one.encode(ids, digest, []) for ids in PROMPTS]
    others = [one.encode(ids, version, []) for ids in PROMPTS for version in one.adapters]
    answers = one.run([*commands, *others])
    for command in commands:
        with torch.inference_mode():
            hidden = model(torch.tensor([command.prompt_ids])).last_hidden_state
        wanted = torch.nn.functional.normalize(hidden.mean(1), dim=-1)[0]
        [answer] = answers[command.id]
        torch.testing.assert_close(torch.tensor(answer.embedding), wanted, rtol=0, atol=1e-5)
    for command in others:
        one.check(command, answers[command.id])


def behind_norms(rig):
    """A version of random layers, and the plain model with the same arithmetic written out."""
    spec = BottleneckSpec(
        placement="seq_bn", size=6, nonlinearity="relu", scaling=0.5,
        target_modules=sublayer_outputs(rig.card, "seq_bn"),
    )  # fmt: skip
    torch.manual_seed(0)
    shapes = spec.tensor_shapes(rig.card)
    tensors = {name: 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    part, lineage = NewPart(spec, save(tensors)), Lineage(method="test")
    version = rig.registry.publish("local", "hub", rig.card, [part], lineage=lineage)
    model = rig.load_plain().eval()
    for path in spec.target_modules:
        norm = model.get_submodule(path)
        own = {
            leaf.removeprefix(path + "."): tensors[leaf]
            for leaf in tensors
            if leaf.startswith(f"{path}.")
        }
        norm.forward = written_out(norm.forward, own)
    return version.digest, model


def written_out(norm, own):
    linear = torch.nn.functional.linear

    def forward(total):
        down = torch.relu(linear(norm(total), own["down.weight"], own["down.bias"]))
        return norm(total + 0.5 * linear(down, own["up.weight"], own["up.bias"]))

    return forward
