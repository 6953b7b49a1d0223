"""How good versions are: the figures of their training, and those that were measured later.

Refuses to measure, and to judge: gates compare what is found here.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select

from rootstock_registry.errors import InvalidArtifact, InvalidName
from rootstock_registry.gates import Figure, Gates, check
from rootstock_registry.manifest import Manifest
from rootstock_registry.model import evaluations

MAX_METRICS = 256
_METRIC = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]{0,63}")
_DATASET = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Evaluation:
    """One measurement of a version's content on a dataset, as its tenant knows it."""

    version_digest: str
    dataset_digest: str
    metrics: Mapping[str, float]
    created_at: datetime


def add(
    connection: Connection, tenant: str, digest: str, dataset: str, metrics: Mapping[str, float]
) -> None:
    """Store figures of the version `digest`. Raises InvalidName, InvalidArtifact for bad ones."""
    if _DATASET.fullmatch(dataset) is None:
        raise InvalidArtifact(f"dataset {dataset[:80]!r} is not a digest (sha256:… of its bytes)")
    if not 1 <= len(metrics) <= MAX_METRICS:
        raise InvalidArtifact(f"metrics: give 1 to {MAX_METRICS} of them")
    for name, value in metrics.items():
        if _METRIC.fullmatch(name) is None:
            raise InvalidName(f"metric {name[:80]!r}: use 1 to 64 letters, digits and _ . / @ -")
        if not math.isfinite(value):
            raise InvalidArtifact(f"metric {name}: {value} is not a finite number")
    connection.execute(
        evaluations.insert().values(
            version_digest=digest,
            tenant=tenant,
            dataset_digest=dataset,
            metrics=json.dumps({name: float(value) for name, value in metrics.items()}),
            created_at=time.time(),
        )
    )


def of_version(connection: Connection, tenant: str, digest: str) -> list[Evaluation]:
    """The tenant's later measurements of this content, oldest first."""
    query = select(evaluations).where(
        evaluations.c.version_digest == digest, evaluations.c.tenant == tenant
    )
    return [_evaluation(row) for row in connection.execute(query.order_by(evaluations.c.id))]


def figures(manifest: Manifest, later: Sequence[Evaluation]) -> dict[str, Figure]:
    """Each metric's latest value, and where it comes from: training, or a later evaluation."""
    found = {name: Figure(value, "from training") for name, value in manifest.evaluation.items()}
    for each in later:
        origin = f"evaluated {each.created_at:%Y-%m-%d %H:%M} on {each.dataset_digest[:19]}…"
        found |= {name: Figure(value, origin) for name, value in each.metrics.items()}
    return found


def check_gates(
    connection: Connection, demanded: Gates, tenant: str, ref: str, digest: str, manifest: Manifest
) -> None:
    """Raises GateNotMet where a figure of the version `ref` falls short, or is missing."""
    later = of_version(connection, tenant, digest)
    check(demanded, figures(manifest, later), ref)


def _evaluation(row: Row[Any]) -> Evaluation:
    return Evaluation(
        version_digest=row.version_digest,
        dataset_digest=row.dataset_digest,
        metrics=json.loads(row.metrics),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )
