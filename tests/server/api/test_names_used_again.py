"""A name means what it means now: what it meant before answers nobody, whoever remembered it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj"],
}  # fmt: skip
CYCLES = 30
ASK = {"model": "again", "prompt": "the same prompt", "max_tokens": 2}


async def publish(house: Any, value: float) -> str:
    """A version's digest; `prod` is moved to it."""
    down, up = np.full((2, 4), value, "f4"), np.ones((4, 2), "f4")
    weights = save({f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up})
    made = await house.http.post(
        "/v1/adapters",
        data={"name": "again", "base": "toy", "promote": "prod"},
        files={CONFIG: (CONFIG, json.dumps(LORA).encode()), WEIGHTS: (WEIGHTS, weights)},
    )
    assert made.status_code == 201, made.text
    digest: str = made.json()["digest"]
    return digest


@pytest.mark.parametrize("deleted", [False, True], ids=["republished", "deleted and made again"])
async def test_the_first_request_after_a_change_gets_what_was_changed(
    house: Any, deleted: bool
) -> None:
    seen = set()
    for cycle in range(CYCLES):
        digest = await publish(house, 1.0 + cycle)
        seen.add(digest)
        for _ in range(2):
            answer = await house.post("/v1/completions", ASK)
            assert answer.headers["x-rootstock-adapter"] == digest
            assert [one.version for one in house.decoder.generated[-1].adapters] == [digest]
        if deleted:
            gone = await house.http.delete("/v1/adapters/again", params={"force": True})
            assert gone.status_code == 200, gone.text
            assert (await house.post("/v1/completions", ASK)).status_code == 404
    assert len(seen) == CYCLES
    assert len(house.decoder.generated) == 2 * CYCLES
