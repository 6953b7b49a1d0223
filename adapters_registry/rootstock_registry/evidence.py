"""What the registry can prove: signatures, evaluations and gates, and the audit log.

One object beside the registry's own methods. Refuses to know how keys sign and how rows are
chained: `signing.py`, `evaluations.py`, `gates.py` and `audit.py` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, select

from rootstock_registry import audit, evaluations, index, provenance, signing
from rootstock_registry.audit import AuditHead, AuditRow
from rootstock_registry.blobs import BlobStore
from rootstock_registry.database import Database, upsert
from rootstock_registry.errors import Conflict, GateNotMet, InvalidArtifact, Untrusted
from rootstock_registry.evaluations import Evaluation
from rootstock_registry.gates import Gates
from rootstock_registry.manifest import Manifest
from rootstock_registry.model import signatures
from rootstock_registry.provenance import Dataset, Export
from rootstock_registry.signing import PublicKey, Signature


class Evidence:
    """`manifest` gives a digest's manifest. Tenants' things are named as in `Registry.resolve`."""

    def __init__(
        self, database: Database, blobs: BlobStore, manifest: Callable[[str], Manifest]
    ) -> None:
        self._database, self._blobs, self._manifest = database, blobs, manifest

    # Signatures

    def sign(self, tenant: str, ref: str, private_key: Path) -> Signature:
        """Sign the version of `ref`: its manifest, and through its digests every blob.

        Raises NotFound, InvalidKey.
        """
        with self._database.reads.connect() as connection:
            row = index.resolve(connection, tenant, ref)
        key_id, bundle = signing.sign(self._blobs.get(row.digest), private_key)
        made = Signature(row.digest, key_id, bundle, datetime.now(UTC))
        values = {
            "version_digest": made.digest,
            "key_id": key_id,
            "bundle": bundle,
            "created_at": made.created_at.timestamp(),
        }
        with self._database.writes.begin() as connection:
            upsert(connection, signatures, values, key=["version_digest", "key_id"])
            detail = {"digest": made.digest, "key": key_id}
            audit.record(connection, tenant, "sign", f"{row.name}:{row.number}", detail)
        return made

    def signatures(self, digest: str) -> list[Signature]:
        """All signatures of this content, oldest first; of whom, `verify` can tell."""
        query = select(signatures).where(signatures.c.version_digest == digest)
        with self._database.reads.connect() as connection:
            rows = connection.execute(query.order_by(signatures.c.created_at)).all()
        return [_signature(row) for row in rows]

    def verify(self, digest: str, key: PublicKey) -> Signature:
        """The signature of the version `digest` by `key`, proven. Raises Untrusted."""
        found = self.signatures(digest)
        mine = next((each for each in found if each.key_id == key.id), None)
        if mine is None:
            others = ", ".join(f"{each.key_id[:12]}…" for each in found)
            why = f"is signed by other keys only ({others})" if others else "is not signed"
            raise Untrusted(f"version {digest} {why}")
        try:
            key.verify(self._blobs.get(digest), mine.bundle)
        except Untrusted as error:
            raise Untrusted(f"version {digest}: {error.message}") from error
        return mine

    # Evaluations and gates

    def evaluate(
        self, tenant: str, ref: str, metrics: Mapping[str, float], dataset_digest: str
    ) -> None:
        """Add figures of the version of `ref`, measured on a dataset after its training.

        Raises NotFound, InvalidName, InvalidArtifact.
        """
        with self._database.writes.begin() as connection:
            row = index.resolve(connection, tenant, ref)
            evaluations.add(connection, tenant, row.digest, dataset_digest, metrics)
            detail = {"dataset": dataset_digest, "metrics": dict(metrics)}
            audit.record(connection, tenant, "evaluate", f"{row.name}:{row.number}", detail)

    def evaluations(self, tenant: str, digest: str) -> list[Evaluation]:
        """What `tenant` measured of this content after its training, oldest first."""
        with self._database.reads.connect() as connection:
            return evaluations.of_version(connection, tenant, digest)

    def check_signed(
        self, tenant: str, ref: str, demanded: Gates, key: PublicKey | None
    ) -> str | None:
        """The digest of `ref` where a signature is demanded and `key` proves it; else None.

        Before the transaction of a promotion: verifying takes long, and content cannot change.
        """
        if not demanded.signed:
            return None
        if key is None:
            raise InvalidArtifact("require signature: say whose, with the signer's public key")
        with self._database.reads.connect() as connection:
            row = index.resolve(connection, tenant, ref)
        try:
            self.verify(row.digest, key)
        except Untrusted as error:
            raise GateNotMet(
                f"{row.name}:{row.number} may not be promoted: need signature by {key.path.name}, "
                f"but {error.message}"
            ) from error
        digest: str = row.digest
        return digest

    def check_gates(
        self, connection: Connection, row: Row[Any], demanded: Gates, signed: str | None
    ) -> None:
        """Within the promotion's transaction. Raises GateNotMet with the figures; Conflict where
        `row` is no longer what `check_signed` has proven."""
        if demanded.signed and row.digest != signed:
            raise Conflict(f"{row.name} has changed meanwhile: ask again")
        if not demanded.figures:
            return
        ref, manifest = f"{row.name}:{row.number}", self._manifest(row.digest)
        evaluations.check_gates(connection, demanded, row.tenant, ref, row.digest, manifest)

    # Where versions come from and go

    def describe_dataset(self, tenant: str, dataset: Dataset) -> None:
        """Keep what the digest in a lineage was computed over. Twice is once."""
        with self._database.writes.begin() as connection:
            provenance.add_dataset(connection, tenant, dataset)

    def dataset(self, tenant: str, digest: str | None) -> Dataset | None:
        with self._database.reads.connect() as connection:
            return provenance.dataset(connection, tenant, digest)

    def exported(self, tenant: str, ref: str, target: str, report: Mapping[str, Any]) -> None:
        """Keep that the version of `ref` was written out, and how it compared. Raises NotFound."""
        with self._database.writes.begin() as connection:
            row = index.resolve(connection, tenant, ref)
            provenance.add_export(connection, tenant, row.digest, target, report)
            audit.record(
                connection, tenant, "export", f"{row.name}:{row.number}", {"target": target}
            )

    def exports(self, tenant: str, digest: str) -> list[Export]:
        with self._database.reads.connect() as connection:
            return provenance.exports_of(connection, tenant, digest)

    # The audit log

    def audit(
        self,
        *,
        tenant: str | None = None,
        object: str | None = None,
        after: int | None = None,
        limit: int = 50,
    ) -> list[AuditRow]:
        """Newest first, those older than the row `after`; of one tenant, of one object."""
        with self._database.reads.connect() as connection:
            return audit.rows(connection, tenant=tenant, object=object, after=after, limit=limit)

    def verify_audit(self, head: str | None = None) -> AuditHead:
        """The chain's end, recomputed from its beginning. Raises BrokenAudit naming the row."""
        with self._database.reads.connect() as connection:
            return audit.verify(connection, head)


def _signature(row: Row[Any]) -> Signature:
    return Signature(
        digest=row.version_digest,
        key_id=row.key_id,
        bundle=row.bundle,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
    )
