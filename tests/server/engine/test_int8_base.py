"""A base in 8 bits: its answers are near to the whole one's, and each is its own version's."""

from __future__ import annotations

import pytest
import torch
from rootstock_server.base import probe
from rootstock_server.config import EngineLimits
from rootstock_server.engine import worker
from rootstock_server.engine.engine import Engine


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@torch.inference_mode()
def test_every_row_is_nearest_to_its_own_versions_reference(rig, model_type):
    one = rig(model_type)
    base, started = worker.load(one.base_path, one.card.model_dump_json(), "int8")
    assert started.dtype == "int8"
    assert 1e-4 < started.parity_error < probe.INT8_TOLERANCE
    one.engine.close()
    one.engine = Engine(base, one.registry.blobs, EngineLimits(kv_cache_mib=4))
    prompt = [20, 30, 40, 50, 60]
    versions = [None, *one.adapters]
    commands = [one.generate(prompt, version, max_tokens=1) for version in versions]
    answers = one.run(commands)
    wanted = torch.stack(
        [one.reference(v)(input_ids=torch.tensor([prompt])).logits[0, -1] for v in versions]
    ).log_softmax(-1)
    for number, command in enumerate(commands):
        [token] = answers[command.id]
        ids, values = zip(*token.top_logprobs, strict=True)
        found = torch.full_like(wanted[0], float("nan"))
        found[list(ids)] = torch.tensor(values)
        distances = (wanted - found).norm(dim=1)
        assert distances.argmin() == number
        others = torch.cat([distances[:number], distances[number + 1 :]])
        assert distances[number] < 0.25 * others.min()
