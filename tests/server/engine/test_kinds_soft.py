"""Soft prompts in packed, chunked, mixed batches answer as Hugging Face and PEFT answer alone."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from rootstock_registry.errors import WrongBase
from rootstock_server.engine.kv_blocks import KvBlocks
from rootstock_server.engine.prefixes import Prefixes
from rootstock_server.engine.request import Adapter, Failed
from transformers import PreTrainedModel

CONFIGS = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}
DECODERS = ["llama", "qwen2", "gemma2", "gpt2", "opt"]


class Reference:
    """PEFT's own model with a soft prompt, and of its outputs those of the request's own tokens."""

    get_encoder = None

    def __init__(self, model: PreTrainedModel, folder: Path) -> None:
        self._peft = PeftModel.from_pretrained(model, folder).eval()
        self.base_model = self.model = self  # where the rig looks for what is inside PEFT's

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        own = input_ids.shape[1]
        out = self._peft(input_ids=input_ids, output_hidden_states=True)
        hidden = out.hidden_states[-1][:, -own:]
        logits = out.logits[:, -own:] if "logits" in out else None
        return SimpleNamespace(logits=logits, last_hidden_state=hidden)


def save_soft(rig, folder: Path, method: str, tokens: int, seed: int) -> None:
    torch.manual_seed(seed)
    task = "CAUSAL_LM" if rig.card.task == "generate" else "FEATURE_EXTRACTION"
    model = rig.load_plain()
    # PEFT looks for them in the config, under names that not every architecture uses.
    width = model.get_input_embeddings().weight.shape[1]
    sizes = {"token_dim": width, "num_attention_heads": 4} if method == "prompt" else {}
    config = CONFIGS[method](task_type=task, num_virtual_tokens=tokens, **sizes)
    model = get_peft_model(model, config)
    torch.nn.init.normal_(model.prompt_encoder["default"].embedding.weight, std=0.5)
    model.save_pretrained(folder)


def add_soft(rig, folder: Path, method: str, tokens: int, seed: int) -> str:
    """The digest of a soft prompt that PEFT made, saved and would serve itself."""
    save_soft(rig, folder, method, tokens, seed)
    version = rig.registry.import_peft("local", folder.name, folder, rig.card)
    rig._references[version.digest] = Reference(rig.load_plain(), folder)
    return version.digest


def prompt(chance: random.Random, most: int = 30) -> list[int]:
    return [chance.randrange(10, 110) for _ in range(chance.randint(1, most))]


def failure(rig, command) -> str:
    [failed] = rig.run([command])[command.id]
    assert isinstance(failed, Failed)
    assert failed.error == "BadRequest"
    return failed.message


@pytest.mark.parametrize("model_type", DECODERS)
def test_soft_prompts_among_other_rows_equal_their_model_alone(rig, tmp_path, model_type):
    """Chunks of at most 16 tokens: long soft prompts are read in several; prefixes cross blocks."""
    one = rig(model_type, max_batch_tokens=16)
    soft = [
        add_soft(one, tmp_path / f"{method}-{tokens}", method, tokens, seed=tokens)
        for method, tokens in (("prompt", 3), ("prompt", 40), ("prefix", 5), ("prefix", 33))
    ]
    chance = random.Random(0)
    commands = []
    for number in range(24):
        version = [None, *one.adapters, *soft][number % 8]
        if number % 3 == 0:
            commands.append(one.encode(prompt(chance), version, list(one.heads)))
        else:
            command = one.generate(prompt(chance), version, max_tokens=chance.randint(1, 20))
            commands.append(command)
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])
        if hasattr(command, "sampling"):
            assert len(answers[command.id]) == command.sampling.max_tokens
    assert one.engine.heartbeat().kv_blocks_used == 0


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "albert", "electra"])
def test_prompt_tuning_on_an_encoder_equals_its_model_alone(rig, tmp_path, model_type):
    """Heads pool the request's own tokens, not the virtual ones before them."""
    one = rig(model_type, max_batch_tokens=48)
    soft = [add_soft(one, tmp_path / f"soft-{n}", "prompt", n, seed=n) for n in (2, 50)]
    chance = random.Random(1)
    versions = [None, *one.adapters, *soft]
    commands = [one.encode(prompt(chance), versions[n % 6], list(one.heads)) for n in range(18)]
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])


def test_the_oracle_tells_soft_prompts_apart(rig, tmp_path):
    one = rig("llama")
    soft = [add_soft(one, tmp_path / m, m, 4, seed=n) for n, m in enumerate(("prompt", "prefix"))]
    for asked in (None, *soft):
        events = one.run([command := one.generate([20, 30, 40], asked)])[command.id]
        for claimed in (None, *soft):
            if claimed != asked:
                with pytest.raises(AssertionError):
                    one.check(one.generate([20, 30, 40], claimed), events)


def test_a_soft_prompt_and_low_rank_updates_act_together(rig, tmp_path):
    one = rig("llama", max_batch_tokens=8)
    soft = add_soft(one, tmp_path / "soft", "prompt", 11, seed=1)
    learned = one._references[soft]._peft.prompt_encoder["default"].embedding.weight
    wide = one.adapters[1]
    command = one.generate([20, 30, 40], None)
    command.adapters.extend([Adapter(soft), Adapter(wide)])
    events = one.run([command])[command.id]
    model = one.reference(wide)
    ids = torch.tensor([[20, 30, 40, *(event.token_id for event in events)]])
    with torch.inference_mode():
        vectors = model.get_input_embeddings()(ids)
        logits = model(inputs_embeds=torch.cat([learned[None], vectors], 1)).logits[0]
    wanted = torch.log_softmax(logits[11 + 2 : -1], dim=-1)
    found = torch.tensor([[p for _, p in sorted(event.top_logprobs)] for event in events])
    assert (found - wanted).abs().max() < 1e-4


def test_penalties_count_no_virtual_tokens(rig, tmp_path):
    """The prompt's end is no part of the answer, wherever virtual tokens have pushed it."""
    one = rig("llama")
    soft = add_soft(one, tmp_path / "soft", "prompt", 9, seed=1)
    prompt = [*range(10, 110)]
    plain = one.generate(prompt, soft, max_tokens=1)
    [event] = one.run([plain])[plain.id]
    values = dict(event.top_logprobs)
    last = prompt[-1]
    assert event.token_id not in prompt[-9:]
    # It leads by one: a penalty of two, taken off once, would cost it its place.
    lead = values[event.token_id] - values[last] + 1
    command = one.generate(
        prompt, soft, max_tokens=1, frequency_penalty=2.0, logit_bias={last: lead}
    )
    [event] = one.run([command])[command.id]
    assert event.token_id == last


def test_virtual_tokens_count_against_the_context(rig, tmp_path):
    one = rig("llama")
    context = one.card.context_length
    for method in CONFIGS:
        soft = add_soft(one, tmp_path / method, method, 20, seed=1)
        fits = one.generate([20] * 10, soft, max_tokens=context - 30)
        assert len(one.run([fits])[fits.id]) == context - 30
        message = failure(one, one.generate([20] * 10, soft, max_tokens=context - 29))
        assert message.startswith("20 virtual tokens of a soft prompt, 10 prompt tokens")


def shrink(rig, blocks: int) -> None:
    """As if the cache were that small: the tiny bases' blocks are, so a megabyte holds many."""
    rig.engine._blocks = KvBlocks(blocks)
    rig.engine.scheduler._cache = Prefixes(rig.engine._blocks)


def test_virtual_tokens_count_against_the_cache(rig, tmp_path):
    one = rig("llama")
    shrink(one, 3)
    soft = add_soft(one, tmp_path / "soft", "prefix", 20, seed=1)
    fits = one.generate([20] * 10, soft, max_tokens=3 * 32 - 30)
    assert len(one.run([fits])[fits.id]) == 3 * 32 - 30
    assert "KV cache" in failure(one, one.generate([20] * 10, soft, max_tokens=3 * 32 - 29))


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("tokens", [5, 32, 40, 64])
def test_blocks_with_virtual_tokens_are_found_again(rig, tmp_path, method, tokens):
    """Virtual tokens that end inside a block, at its end, and in a later one."""
    one = rig("llama", max_batch_tokens=24)
    soft = [add_soft(one, tmp_path / f"soft-{n}", method, tokens, seed=n) for n in (1, 2)]
    ids = [*range(10, 60)]
    for number in range(3):
        # The same ids under two soft prompts, and the base beside them: three different prefixes.
        commands = [one.generate([*ids, 70 + number], version) for version in (*soft, None)]
        answers = one.run(commands)
        for command in commands:
            one.check(command, answers[command.id])
    blocks = 2 * ((tokens + 50) // 32) + 50 // 32  # of two soft prompts and of the base
    assert one.engine.scheduler.prefix_hit_tokens == 2 * blocks * 32


@pytest.mark.parametrize("method", CONFIGS)
def test_preempted_soft_prompts_are_read_again(rig, tmp_path, method):
    one = rig("llama", max_batch_tokens=24)
    shrink(one, 7)
    soft = [add_soft(one, tmp_path / f"soft-{n}", method, 20 + n, seed=n) for n in (1, 2)]
    commands = [
        one.generate([30 + n] * (5 + n), version, max_tokens=60)
        for n, version in enumerate((*soft, *soft, None))
    ]
    answers = one.run(commands)
    for command in commands:
        one.check(command, answers[command.id])
        assert len(answers[command.id]) == 60
    assert one.engine.scheduler.preemptions > 0


def test_a_request_takes_one_soft_prompt_at_scale_one(rig, tmp_path):
    one = rig("llama")
    first = add_soft(one, tmp_path / "first", "prompt", 2, seed=1)
    second = add_soft(one, tmp_path / "second", "prefix", 2, seed=2)
    command = one.generate([20], None)
    command.adapters.extend([Adapter(first), Adapter(second)])
    message = failure(one, command)
    assert first in message and second in message and "takes one" in message
    command = one.generate([20], None)
    command.adapters.append(Adapter(first, 0.5))
    assert "no scale but 1, not 0.5" in failure(one, command)


def test_prefix_tuning_on_an_encoder_is_refused_in_words(rig, tmp_path):
    one = rig("bert")
    save_soft(one, tmp_path / "prefix", "prefix", 2, seed=1)
    with pytest.raises(WrongBase, match="use prompt_tuning"):
        one.registry.import_peft("local", "prefix", tmp_path / "prefix", one.card)
