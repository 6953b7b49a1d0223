"""Reported damage at the doors: confirmed by a read of their own, counted, refused, gone round."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from rootstock_registry.blob_names import key_of
from rootstock_server.errors import CorruptAdapter

COUNTED = "rootstock_quarantined_versions_total"


def flip(house, digest: str) -> None:
    file: Path = house.registry.blobs._shelf._root / key_of(digest)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o600)
    file.write_bytes(data)


def counted(house) -> float:
    lines = house.handle.telemetry.exposition().decode().splitlines()
    [value] = [line.split()[1] for line in lines if line.startswith(f"{COUNTED} ")]
    return float(value)


def marks(house) -> list[str]:
    rows = house.registry.evidence.audit(object="a")
    return [row.actor for row in rows if row.action == "quarantine"]


def asked(house, model: str):
    return house.post("/v1/completions", {"model": model, "prompt": "hi"})


async def test_damage_that_the_doors_own_read_does_not_find_marks_nothing(house) -> None:
    house.decoder.refusal = CorruptAdapter("the stored bytes have changed")
    answer = await asked(house, "a")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "corrupt_adapter")
    house.decoder.refusal = None
    assert (await asked(house, "a")).status_code == 200
    assert counted(house) == 0 and marks(house) == []


async def test_many_requests_that_meet_the_damage_at_once_read_it_once(house, monkeypatch) -> None:
    version = house.registry.resolve("local", "a")
    flip(house, version.manifest.parts[0].blob)
    inspect, begun, go_on = house.registry.inspect, [], threading.Event()

    def counting(*name: str):
        begun.append(name)
        go_on.wait(10)
        return inspect(*name)

    monkeypatch.setattr(house.registry, "inspect", counting)
    house.decoder.refusal = CorruptAdapter("damaged")
    asking = [asyncio.create_task(asked(house, "a")) for _ in range(6)]
    await house.eventually(lambda: len(house.decoder.generated) == 6 and begun)
    go_on.set()
    answers = await asyncio.gather(*asking)
    assert {answer.status_code for answer in answers} == {500}
    assert begun == [("local", "a:1")]
    assert counted(house) == 1
    [actor] = marks(house)
    assert actor.startswith("server:")

    house.decoder.refusal = None
    for model in ("a", "a:1", "a@prod"):
        refused = await asked(house, model)
        assert (refused.status_code, refused.json()["error"]["code"]) == (500, "corrupt_adapter")
        assert "a:1 is quarantined since " in refused.json()["error"]["message"]
        assert "part 1 (lora): " in refused.json()["error"]["message"]
    assert len(house.decoder.generated) == 6 and len(begun) == 1  # nobody has read it again
    assert (await asked(house, "b")).status_code == 200


async def test_a_manifest_damaged_in_the_store_is_marked_by_who_reads_it(house) -> None:
    flip(house, house.registry.resolve("local", "a").digest)
    house.registry._manifest.cache_clear()  # as in a server that starts now
    house.registry._remembered.now().clear()
    first = await asked(house, "a")
    assert first.status_code == 500 and "is damaged" in first.json()["error"]["message"]
    assert counted(house) == 1 and len(marks(house)) == 1
    again = await asked(house, "a")
    assert "manifest: the bytes of blob" in again.json()["error"]["message"]
    listed = [each["id"] for each in (await house.http.get("/v1/models")).json()["data"]]
    assert "a" not in listed and "b" in listed


async def test_lists_say_it_and_a_route_goes_to_its_fallback(house) -> None:
    version = house.registry.resolve("local", "a")
    house.registry.set_route("local", "write", {"a@prod": 1}, fallback="b@prod")
    flip(house, version.manifest.parts[0].blob)
    house.registry.inspect("local", "a")
    shown = (await house.http.get("/v1/adapters/a/versions/1")).json()
    [listed] = (await house.http.get("/v1/adapters/a/versions")).json()["data"]
    for each in (shown, listed):
        assert each["quarantined"] is True and "part 1 (lora): " in each["quarantine_reason"]
    answer = await house.post("/v1/tasks/write", {"prompt": "hi"})
    assert answer.status_code == 200
    assert answer.json()["system_fingerprint"] == house.digest("b")
