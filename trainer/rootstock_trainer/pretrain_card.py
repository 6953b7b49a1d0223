"""Writes a pre-trained base as a folder: weights, tokenizer, log, samples and model card.

Knows no training; every figure comes from the report it is given.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from rootstock_trainer.forgetting import HELD_OUT, MAX_TEXTS
from rootstock_trainer.pretrain_data import Row
from rootstock_trainer.pretrain_settings import PretrainReport

_SAMPLES = 20
_NEW_TOKENS = 160


def write_folder(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: PretrainReport,
    held_out: list[Row],
) -> None:
    """Write everything into `OUT.partial`, then rename it: `out` is whole or absent."""
    # Its bars would follow ours for files that take no time to write.
    transformers_logging.disable_progress_bar()
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_length=report.settings.context,
    )
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "training.json").write_text(report.model_dump_json(indent=1) + "\n")
    reloaded = LlamaForCausalLM.from_pretrained(partial, dtype=torch.float32).eval()
    (partial / "SAMPLES.md").write_text(samples(reloaded, tokenizer, report, held_out))
    (partial / "README.md").write_text(card(report))
    kept = held_out[:MAX_TEXTS]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in kept]
    (partial / HELD_OUT).write_text("".join(lines), encoding="utf-8")
    partial.replace(out)


def command(report: PretrainReport) -> str:
    """The one command that makes this base again."""
    settings = report.settings
    files = " ".join(f"--data {name}" for name in report.data)
    again = (
        f"rootstock pretrain {files} --params {settings.parameters} --steps {report.steps} "
        f"--seed {settings.seed} --out DIR"
    )
    return f"{settings.data_command} && \\\n  {again}" if settings.data_command else again


def samples(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    report: PretrainReport,
    held_out: list[Row],
) -> str:
    """Twenty unedited samples: answers to held-out chats, the rest from nothing."""
    chats = [row["messages"] for row in held_out if "messages" in row]
    prompts = [
        turns[: 1 + [turn["role"] for turn in turns].index("user")]
        for turns in chats
        if any(turn["role"] == "user" for turn in turns)
    ][: _SAMPLES // 2]
    lines = [
        "# Twenty unedited samples",
        "",
        "Written by the training run itself, straight after the last step:",
        "",
        f"```\n{command(report)}\n```",
        "",
        f"The first {len(prompts)} answer held-out chats greedily; the others start from nothing, "
        f"at temperature 0.8, seeds 0 to {_SAMPLES - len(prompts) - 1}. Nothing was left out.",
    ]
    for number, turns in enumerate(prompts, start=1):
        ids = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        asked = "\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)
        answer = _continue(model, tokenizer, ids)
        lines += ["", f"## {number}", "", f"```\n{asked}\nassistant: {answer}\n```"]
    for seed in range(_SAMPLES - len(prompts)):
        torch.manual_seed(seed)
        ids = torch.tensor([[tokenizer.bos_token_id]])
        text = _continue(model, tokenizer, ids, do_sample=True, temperature=0.8, top_k=0)
        lines += ["", f"## {len(prompts) + seed + 1}", "", f"```\n{text}\n```"]
    return "\n".join(lines) + "\n"


def _continue(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    ids: torch.Tensor,
    **sampling: float | bool,
) -> str:
    """The text after `ids` `[1, tokens]`, special tokens shown, up to the end token."""
    room = model.config.max_position_embeddings - ids.shape[1]
    sampling.setdefault("do_sample", False)
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=max(1, min(room, _NEW_TOKENS)),
        max_length=None,
        **sampling,
    )
    return tokenizer.decode(made[0, ids.shape[1] :])


def card(report: PretrainReport) -> str:
    """The model card, from the report alone."""
    settings = report.settings
    rows = [
        ("this model", report.model),
        ("interpolated trigram (Witten-Bell), same tokens", report.trigram),
        ("unigram, same tokens", report.unigram),
    ]
    table = "\n".join(
        f"| {name} | {loss.nats_per_token:.3f} | {loss.bits_per_byte:.3f} |" for name, loss in rows
    )
    data = "\n".join(f"- `{name}` {digest}" for name, digest in report.data.items())
    return f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# A small base, pre-trained from scratch

Llama architecture, {report.parameters:,} parameters: {report.layers} layers, {report.width} wide,
tied embeddings, a context of {settings.context} tokens, bfloat16 weights. A byte-level BPE
tokenizer (at most {settings.vocabulary} entries) with a chat template for the roles system, user
and assistant. Licence: Apache-2.0.

It knows the world of its training documents and nothing else: do not ask it about ours.

## Make it again

```
{command(report)}
```

The same weights come out on the same kind of machine with the same number of threads
({report.threads}). The data, {report.documents:,} documents:

{data}

## Figures

{report.held_out_documents:,} held-out documents, none of which occurs in the training part,
{report.held_out_tokens:,} tokens:

| | nats per token | bits per byte |
|---|---|---|
{table}

{report.steps:,} steps over {report.tokens:,} tokens. From reading the data to the last loss:
{report.wall_seconds:,.0f} s wall clock, {report.cpu_seconds:,.0f} s of CPU time, {report.threads}
threads. The settings and the loss curve are in `training.json`, twenty unedited samples in
`SAMPLES.md`, and in `held-out.jsonl` some of the held-out documents, on which it is measured how
much of this a later training makes it forget.
"""
