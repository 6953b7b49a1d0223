"""One base at full shape with random bf16 weights: saved references of Hugging Face and PEFT, then
the packed engine's answers to all of them at once. Prints one line of JSON.

    python tests/soak/shape.py NAME FOLDER

Refuses to know what is good enough: `soak.py` judges.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from rootstock_adapters.architectures import ARCHITECTURES
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.op import pool
from rootstock_registry import Registry
from rootstock_server.base.load import FAMILIES, load_model
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.request import (
    Adapter,
    Encode,
    Encoded,
    Event,
    Failed,
    Generate,
    Sampling,
    Token,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig

LIMIT_GIB = 24
# As published: distilbert-base-uncased, TinyLlama-1.1B, gemma-2-2b, phi-2, m2m100_418M.
SHAPES: dict[str, tuple[str, dict[str, object], list[str]]] = {
    "distilbert": ("distilbert", {"vocab_size": 30522}, ["q_lin", "v_lin"]),
    "tinyllama-1.1b": (
        "llama",
        {
            "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 5632,
            "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
        },
        ["q_proj", "v_proj"],
    ),
    "gemma-2-2b": (
        "gemma2",
        {
            "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216,
            "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
            "head_dim": 256, "query_pre_attn_scalar": 256, "sliding_window": 4096,
        },
        ["q_proj", "v_proj"],
    ),
    "phi-2": (
        "phi",
        {
            "vocab_size": 51200, "hidden_size": 2560, "intermediate_size": 10240,
            "num_hidden_layers": 32, "num_attention_heads": 32, "partial_rotary_factor": 0.4,
            "max_position_embeddings": 2048,
        },
        ["q_proj", "v_proj"],
    ),
    "m2m100-418m": ("m2m_100", {"vocab_size": 128112}, ["q_proj", "v_proj"]),
}  # fmt: skip
LENGTHS = (5, 61, 17, 130, 33, 8)  # of the prompts; every other one is the adapter's
STEPS = 4  # tokens that follow each prompt
TOP = 50  # log probabilities that are compared for each


def main(name: str, folder: Path) -> None:
    begun = time.monotonic()
    # What is allocated, not what is mapped: a file's pages are the system's to take back.
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GIB << 30, LIMIT_GIB << 30))
    model_type, sizes, targets = SHAPES[name]
    path = folder / "base"
    make_base(path, model_type, sizes)
    card = BaseCard.read(path, name)
    prompts = random_prompts(card.vocab_size)
    registry = Registry(folder / "home")
    digest = make_references(folder, card, path, targets, prompts, registry)
    gc.collect()
    base, started = worker.load(path, card.model_dump_json(), "bfloat16")
    engine = Engine(base, registry.blobs, EngineLimits(kv_cache_mib=256))
    answers = run(engine, commands(card, prompts, digest))
    errors = list(compare(card, answers, load_file(folder / "references.safetensors")))
    engine.close()
    report = {
        "base": name,
        "parameters": sum(torch.Size(shape).numel() for shape in card.parameters.values()),
        "probe_error": started.parity_error,
        "rows": len(prompts),
        "compared": len(errors),
        "largest_error": max(errors),
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20),
        "seconds": time.monotonic() - begun,
    }
    print(json.dumps(report))


def make_base(path: Path, model_type: str, sizes: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **sizes)
    family = FAMILIES[ARCHITECTURES[model_type].task]
    model = family.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(path, max_shard_size="2GB")


def random_prompts(vocab_size: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(10, vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


@torch.inference_mode()
def make_references(
    folder: Path, card: BaseCard, path: Path, targets: list[str], prompts: list[list[int]],
    registry: Registry,
) -> str:  # fmt: skip
    """Each prompt alone: greedy tokens and their logits, or pooled hidden states, to a file.

    Returns the digest of the adapter, which PEFT made and every other prompt is asked of.
    """
    torch.manual_seed(2)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets, init_lora_weights=False)
    model = get_peft_model(load_model(path, card, "bfloat16"), config)
    model.save_pretrained(folder / "adapter")
    saved: dict[str, Tensor] = {}
    for number, prompt in enumerate(prompts):
        with model.disable_adapter() if number % 2 == 0 else torch.no_grad():
            tokens, output = reference(model, card, prompt)
        saved |= {f"{number}.tokens": tokens, f"{number}.output": output}
    save_file(saved, folder / "references.safetensors")
    version = registry.import_peft("local", "adapter", folder / "adapter", card)
    return version.digest


def reference(model: PeftModel, card: BaseCard, prompt: list[int]) -> tuple[Tensor, Tensor]:
    """Tokens [n] and logits [n, vocabulary]; or no tokens and the pooled embedding."""
    ids = torch.tensor([prompt])
    if card.task == "encode":
        hidden = model(input_ids=ids).last_hidden_state.float()
        mask = torch.ones_like(ids)
        return torch.empty(0), pool(hidden, mask, card.pooling, card.normalize)[0]
    written = torch.tensor([card.decoder_start]) if card.decoder_start else ids
    start = written.shape[1]
    for _ in range(STEPS):
        inputs = {"input_ids": written}
        if card.decoder_start:
            inputs = {"input_ids": ids, "decoder_input_ids": written}
        logits = model(**inputs).logits[0, start - 1 :].float()
        written = torch.cat([written, logits[-1:].argmax(-1, keepdim=True)], dim=1)
    return written[0, start:], logits


def commands(card: BaseCard, prompts: list[list[int]], digest: str) -> list[Generate | Encode]:
    made: list[Generate | Encode] = []
    for number, prompt in enumerate(prompts):
        adapters = [] if number % 2 == 0 else [Adapter(digest)]
        if card.task == "encode":
            made.append(
                Encode(id=str(number), prompt_ids=prompt, adapters=adapters, heads=[], embed=True)
            )
            continue
        sampling = Sampling(max_tokens=STEPS, temperature=0.0, ignore_eos=True, logprobs=TOP)
        start = list(card.decoder_start)
        made.append(
            Generate(
                id=str(number), prompt_ids=prompt + start, source=len(prompt) if start else 0,
                adapters=adapters, sampling=sampling,
            )
        )  # fmt: skip
    return made


def run(engine: Engine, asked: list[Generate | Encode]) -> dict[str, list[Event]]:
    answers: dict[str, list[Event]] = {command.id: [] for command in asked}
    events = [event for command in asked for event in engine.apply(command)]
    unfinished = set(answers)
    while unfinished:
        for event in events:
            if isinstance(event, Failed):
                raise RuntimeError(event.message)
            answers[event.id].append(event)
            if isinstance(event, Encoded) or event.finish_reason:
                unfinished.discard(event.id)
        engine.wake()
        events = engine.step()
    return answers


def compare(
    card: BaseCard, answers: dict[str, list[Event]], saved: dict[str, Tensor]
) -> Iterator[float]:
    """Each position's largest error, relative to the largest value of its reference.

    A row is followed as long as both have written the same: near ties may part them.
    """
    for number, events in answers.items():
        wanted = saved[f"{number}.output"]
        if card.task == "encode":
            [answer] = events
            assert isinstance(answer, Encoded)
            yield float((torch.tensor(answer.embedding) - wanted).abs().max() / wanted.abs().max())
            continue
        for event, token, logits in zip(events, saved[f"{number}.tokens"], wanted, strict=True):
            assert isinstance(event, Token)
            ids, found = zip(*event.top_logprobs, strict=True)
            right = torch.log_softmax(logits, dim=-1)[list(ids)]
            yield float((torch.tensor(found) - right).abs().max() / logits.abs().max())
            if event.token_id != int(token):
                break


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
