"""What versions were made from, and where they went: datasets by digest, exports by target.

Refuses to read a dataset and to write a package: who did it says so here.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from rootstock_registry.database import insert_new
from rootstock_registry.model import exports
from rootstock_registry.model_work import datasets


@dataclass(frozen=True)
class Dataset:
    """What a digest in a version's lineage was computed over; the rows themselves are not kept."""

    digest: str
    rows: int
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Export:
    """One package or folder that a version was written to; `report` is what was measured of it."""

    version_digest: str
    target: str
    report: Mapping[str, Any]
    created_at: datetime


def add_dataset(connection: Connection, tenant: str, dataset: Dataset) -> None:
    """Idempotent by tenant and digest."""
    row = {
        "tenant": tenant,
        "digest": dataset.digest,
        "rows": dataset.rows,
        "columns": json.dumps(dataset.columns),
        "created_at": time.time(),
    }
    insert_new(connection, datasets, [row])


def dataset(connection: Connection, tenant: str, digest: str | None) -> Dataset | None:
    mine = (datasets.c.tenant == tenant, datasets.c.digest == digest)
    row = connection.execute(select(datasets).where(*mine)).first()
    return Dataset(row.digest, row.rows, tuple(json.loads(row.columns))) if row else None


def add_export(
    connection: Connection, tenant: str, digest: str, target: str, report: Mapping[str, Any]
) -> None:
    row = {
        "id": f"export-{uuid.uuid4().hex}",
        "tenant": tenant,
        "version_digest": digest,
        "target": target,
        "report": json.dumps(dict(report), allow_nan=False),
        "created_at": time.time(),
    }
    connection.execute(exports.insert().values(row))


def exports_of(connection: Connection, tenant: str, digest: str) -> list[Export]:
    """The tenant's exports of this content, oldest first."""
    mine = (exports.c.tenant == tenant, exports.c.version_digest == digest)
    query = select(exports).where(*mine).order_by(exports.c.created_at, exports.c.id)
    return [
        Export(
            row.version_digest,
            row.target,
            json.loads(row.report),
            datetime.fromtimestamp(row.created_at, UTC),
        )
        for row in connection.execute(query)
    ]
