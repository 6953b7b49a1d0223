"""What serving costs is measured on a server that runs: figures for what is served, gaps else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from rootstock_cli import comparing_cost
from rootstock_cli.comparing_cost import Cost, measure, with_cost
from rootstock_cli.shipped import Source
from rootstock_client import Client
from rootstock_wire.comparisons import ComparisonResult, Entry


def sound(cost: Cost) -> bool:
    return all(math.isfinite(each) and each > 0 for each in cost)


def test_a_table_gets_latency_and_speed_of_what_can_be_served(
    filled,
    tiny: dict[str, Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparing_cost, "ROUNDS", 2)
    home, data = tmp_path / "home", tmp_path / "rows.jsonl"
    filled(home).close()
    turns = [{"role": "user", "content": "the quick"}, {"role": "assistant", "content": "fox"}]
    rows = [{"messages": turns}, {"messages": [{"role": "user", "content": "dog"}, turns[1]]}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    entries = [
        Entry(label="base", state="measured"),
        Entry(label="tiny", state="measured", versions=["loud:1"]),  # like the base's own name
        Entry(label="lora:rank=4", state="measured", versions=["calm:1"]),
        Entry(label="full", state="measured", versions=["nobody:1"]),
        Entry(label="dora", state="failed"),
    ]
    table = ComparisonResult.model_construct(entries=entries)
    priced = with_cost(table, home, Source("tiny", tiny["tiny"]), data, "text")
    by_label = {entry.label: entry for entry in priced.entries}
    assert list(by_label) == [entry.label for entry in entries]
    assert by_label["base"].added_latency_ms == 0
    for label in ("base", "tiny", "lora:rank=4"):
        added, speed = by_label[label].added_latency_ms, by_label[label].tokens_per_s
        assert added is not None and math.isfinite(added)
        assert speed is not None and math.isfinite(speed) and speed > 0
    for label in ("full", "dora"):
        assert by_label[label].added_latency_ms is None
        assert by_label[label].tokens_per_s is None
    assert "full was not served" in capfd.readouterr().err


def test_texts_and_prompts_are_measured_too(server) -> None:
    with Client(server.url) as client:
        texts = measure(client, "reader", {"head": "mood:1"}, [{"input": "the quick fox"}])
        prompts = measure(client, "tiny", {"lora": "loud:1"}, [{"prompt": "the quick"}])
    assert set(texts) == {"base", "head"} and set(prompts) == {"base", "lora"}
    assert all(map(sound, [*texts.values(), *prompts.values()]))
