"""An open registry: its database, its blobs, and rows turned into versions.

Refuses to know what is asked of it: `registry.py` and `lifecycle.py` stand on this.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row

from rootstock_registry import index, quarantine, storage
from rootstock_registry.blobs import BlobStore
from rootstock_registry.database import Database
from rootstock_registry.errors import CorruptBlob, NotFound
from rootstock_registry.evidence import Evidence
from rootstock_registry.last_said import LastSaid
from rootstock_registry.manifest import Manifest
from rootstock_registry.records import Version
from rootstock_registry.remembered import Remembered

MANIFESTS_IN_MEMORY = 1024
ROWS_IN_MEMORY = 65_536


class Opened:
    """Opens `home`, makes it where it does not exist, migrates it where it is older."""

    def __init__(
        self,
        home: Path,
        database_url: str | None = None,
        blobs: str | None = None,
    ) -> None:
        """`database_url`: PostgreSQL for what SQLite would keep in `home`; see `Database`.

        `blobs`: `s3://bucket/prefix` for what would lie in `home/blobs`. What is not given is as
        the home remembers it; see `storage`.
        """
        self._database = Database(home, database_url or storage.read(home).database_url)
        self.blobs = BlobStore.of(home, blobs)
        # A digest's content never changes, so this never goes stale.
        self._manifest = lru_cache(MANIFESTS_IN_MEMORY)(
            lambda digest: Manifest.parse(self.blobs.get(digest))
        )
        self._rows_checked: set[tuple[int, str]] = set()
        self._remembered = Remembered(self._database)
        self._last_said = LastSaid()
        self._revoked: set[str] = set()  # secrets, hashed, that were seen to be nobody's any more
        self.evidence = Evidence(self._database, self.blobs, self._manifest)

    def close(self) -> None:
        self._remembered.close()
        self._database.close()

    def ask_database(self) -> None:
        """Whether it answers now: raises Unavailable where it does not."""
        self._database.ask()

    def resolve(self, tenant: str, ref: str) -> Version:
        """`name` (its alias `prod`), `name:3`, `name@alias`; each may begin with `tenant/`.

        Raises NotFound; for another tenant's adapter, exactly as for one that does not exist.
        Raises Quarantined where its stored bytes are known to be damaged, without reading them.
        While the database is away, what it said some seconds before; see `last_said`.
        """
        known = self._remembered.now()

        def look_up() -> Version:
            with self._database.reads.connect() as connection:
                row = index.resolve(connection, tenant, ref)
                if row.quarantined_at is not None:
                    raise quarantine.refusal(row)
                self._check_row(connection, row)
            version = known[tenant, ref] = self._version(row)
            return version

        found = known.get((tenant, ref))
        return found or self._last_said.or_now(("version", tenant, ref), look_up)

    def _check_row(self, connection: Connection, row: Row[Any]) -> None:
        """Once per version: that its row names what was published, not another's content."""
        if (row.id, row.digest) in self._rows_checked:
            return
        if damage := quarantine.in_row(connection, row):
            raise CorruptBlob(f"{row.name}:{row.number} is damaged: {damage}")
        if len(self._rows_checked) >= ROWS_IN_MEMORY:
            self._rows_checked.clear()
        self._rows_checked.add((row.id, row.digest))

    def look_at(self, tenant: str, ref: str) -> Version:
        """As `resolve`, also where it is quarantined: to be shown, not to be answered with.

        Raises Quarantined only where there is nothing to show: its manifest is damaged.
        """
        with self._database.reads.connect() as connection:
            row = index.resolve(connection, tenant, ref)
        try:
            return self._version(row)
        except CorruptBlob as error:
            raise (quarantine.refusal(row) if row.quarantined_at else error) from None

    def _manifest_of(self, row: Row[Any]) -> Manifest:
        try:
            return self._manifest(row.digest)
        except NotFound as error:
            # The row says that there is one: this is no name that nobody has.
            raise CorruptBlob(
                f"the manifest of {row.name}:{row.number}, {row.digest}, is not among the stored "
                "blobs: bring them back, or publish the version again"
            ) from error

    def _version(self, row: Row[Any]) -> Version:
        return Version(
            tenant=row.tenant,
            name=row.name,
            number=row.number,
            digest=row.digest,
            base_fingerprint=row.base_fingerprint,
            manifest=self._manifest_of(row),
            aliases=tuple(sorted(row.aliases.split(","))) if row.aliases else (),
            created_at=datetime.fromtimestamp(row.created_at, UTC),
            yanked_at=when(row.yanked_at),
            yank_reason=row.yank_reason,
            quarantined_at=when(row.quarantined_at),
            quarantine_reason=row.quarantine_reason,
        )


def when(seconds: float | None) -> datetime | None:
    """A column's time, in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
