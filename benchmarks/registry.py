"""How long a registry of 10,000 versions takes to answer: `python -m benchmarks.registry`.

With `--database-url`, on an empty PostgreSQL database; otherwise on SQLite in a folder of its own.
Refuses to know servers: these are the calls that they make.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rootstock_adapters.base_card import BaseCard
from rootstock_registry import BaseRef, Lineage, Manifest, Part, Registry
from rootstock_registry.model import aliases, parts, versions
from sqlalchemy import text

TENANT = "local"
# One adapter with half of all versions, the rest spread over others with twenty each.
DEEP, EACH = "deep", 20
MANIFESTS = 1000  # different contents; a server keeps about as many in memory
CALLS = 1000
BLOB = "sha256:" + "b" * 64


def card() -> BaseCard:
    return BaseCard(
        name="measured",
        fingerprint="sha256:" + "1" * 64,
        model_type="bert",
        task="encode",
        hidden_size=384,
        layers=6,
        vocab_size=30522,
        context_length=512,
        pooling="mean",
        normalize=True,
        linears={},
    )


def fill(registry: Registry, count: int) -> list[str]:
    """Register `count` versions, straight into the tables; the references of those to ask for."""
    base = card()
    registry.add_base(base)
    digests = [registry.blobs.put(_manifest(base, seed)) for seed in range(min(MANIFESTS, count))]
    deep = count // 2
    places = [(DEEP, number) for number in range(1, deep + 1)]
    places += [(f"adapter-{n // EACH:05d}", n % EACH + 1) for n in range(count - deep)]
    rows = [
        {
            "tenant": TENANT,
            "name": name,
            "number": number,
            # A content is under one name only once: the deep one has more rows than manifests.
            "digest": f"sha256:{n:064x}" if MANIFESTS <= n < deep else digests[n % len(digests)],
            "base_fingerprint": base.fingerprint,
            "created_at": float(n),
        }
        for n, (name, number) in enumerate(places)
    ]
    described = [
        {"version_digest": digest, "position": 0, "kind": "lora", "blob": BLOB, "size": 100_000}
        for digest in {row["digest"] for row in rows}
    ]
    names = sorted({name for name, _ in places})
    meant = [{"tenant": TENANT, "name": name, "alias": "prod", "number": EACH} for name in names]
    with registry._database.writes.begin() as connection:
        connection.execute(versions.insert(), rows)
        connection.execute(parts.insert(), described)
        connection.execute(aliases.insert(), meant)
        if connection.dialect.name == "postgresql":
            # Its plans need to know what is in the tables. Autovacuum would see to it in a minute.
            connection.execute(text("ANALYZE"))
    return [f"{name}{form}" for name in names for form in ("", "@prod", ":1", f":{EACH}")]


def measure(registry: Registry, refs: list[str]) -> dict[str, float]:
    """Medians in milliseconds, after each kind of call was made once over."""
    chance = random.Random(0)
    asked = chance.choices(refs, k=CALLS)
    names = sorted({ref for ref in refs if not set(ref) & set(":@")})
    places = chance.choices(names, k=100)
    for ref in asked:
        registry.resolve(TENANT, ref)
    return {
        "resolve": _median(lambda ref: registry.resolve(TENANT, ref), asked),
        "page of 100 adapters": _median(
            lambda name: registry.adapter_page(TENANT, after=name, limit=100), places
        ),
        "page of 100 versions": _median(
            lambda after: registry.version_page(TENANT, DEEP, after=after, limit=100),
            list(range(200, 4200, 40)),
        ),
    }


def _manifest(base: BaseCard, seed: int) -> bytes:
    tensors = {
        f"layer.{layer}.{place}": {"dtype": "F32", "shape": [8, 384]}
        for layer in range(6)
        for place in ("query.A", "query.B", "value.A", "value.B")
    }
    part = Part.model_validate(
        {"kind": "lora", "config": {"rank": 8}, "blob": BLOB, "size": 100_000, "tensors": tensors}
    )
    return Manifest(
        base=BaseRef(name=base.name, fingerprint=base.fingerprint),
        parts=(part,),
        lineage=Lineage(method="lora", seed=seed),
    ).canonical()


def _median(call: Callable[[Any], object], arguments: Sequence[Any]) -> float:
    times = []
    for argument in arguments:
        start = time.perf_counter()
        call(argument)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.registry", description=__doc__)
    parser.add_argument("--database-url")
    parser.add_argument("--versions", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder), options.database_url)
        figures = measure(registry, fill(registry, options.versions))
        registry.close()
    kind = "PostgreSQL" if options.database_url else "SQLite"
    print(f"{options.versions} versions on {kind}, medians:")
    for what, milliseconds in figures.items():
        print(f"  {what}: {milliseconds:.2f} ms")


if __name__ == "__main__":
    main()
