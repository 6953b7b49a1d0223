"""The registry as everybody uses it: one object over the database and the blobs of a home folder.

Synchronous, and safe for threads and processes. Refuses to know models, requests and torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from rootstock_adapters.base_card import BaseCard

from rootstock_registry import (
    adapterhub,
    changes,
    index,
    listing,
    peft_folder,
    prompt_file,
    routes,
    tenants,
)
from rootstock_registry.changes import MAX_CHANGES, Follower
from rootstock_registry.collect import DEFAULT_GRACE_S, Collection, collect
from rootstock_registry.comparisons import Comparing
from rootstock_registry.gates import NO_GATES, Gates
from rootstock_registry.lifecycle import Lifecycle
from rootstock_registry.manifest import Lineage, Manifest
from rootstock_registry.publish import Publication, publish
from rootstock_registry.quarantine import Inspection, inspect
from rootstock_registry.records import (
    AdapterSummary,
    ApiKey,
    Change,
    Job,
    KeyOwner,
    NewPart,
    Route,
    Version,
)
from rootstock_registry.work import Work


class Registry(Lifecycle, Work, Comparing):
    """Opens `home`, makes it where it does not exist, migrates it where it is older."""

    # Bases

    def add_base(self, card: BaseCard) -> None:
        """Idempotent by fingerprint; a name moves to the fingerprint it was last given.

        Raises Conflict where an adapter has the base's name.
        """
        with self._database.writes.begin() as connection:
            index.add_base(connection, card)

    def base(self, name_or_fingerprint: str) -> BaseCard:
        with self._database.reads.connect() as connection:
            return index.base(connection, name_or_fingerprint)

    def bases(self) -> list[BaseCard]:
        with self._database.reads.connect() as connection:
            return index.base_list(connection)

    # Versions

    def publish(
        self,
        tenant: str,
        name: str,
        base: BaseCard,
        parts: Sequence[NewPart],
        *,
        lineage: Lineage,
        evaluation: Mapping[str, float] | None = None,
        promote: str | None = None,
        gates: Gates = NO_GATES,
        job: Job | None = None,
        ends_job: bool = True,
    ) -> Version:
        """Check, store and register; the same content twice is one version.

        With `job`, the version and the job's success are one transaction: where the job's lease
        was taken over, Conflict is raised and nothing is registered. Without `ends_job` it goes on,
        to its next version. A base that is not yet known becomes known. `promote` moves where the
        figures hold `gates`; where a job's do not, its events say so. Raises InvalidName, NotFound
        (the tenant), InvalidArtifact, WrongBase, GateNotMet (without `job`).
        """
        new = Publication(
            tenant, name, base, parts, lineage, evaluation or {}, promote, job, ends_job, gates
        )
        number = publish(self._database, self.blobs, new)
        return self.resolve(tenant, f"{name}:{number}")

    def import_peft(
        self,
        tenant: str,
        name: str,
        folder: Path,
        base: BaseCard,
        *,
        base_folder: Path | None = None,
        promote: str | None = None,
    ) -> Version:
        """Publish a folder that PEFT saved. Raises as `publish` does; see `peft_folder`."""
        parts, lineage = peft_folder.read(folder, base, base_folder)
        return self.publish(tenant, name, base, parts, lineage=lineage, promote=promote)

    def import_adapterhub(
        self, tenant: str, name: str, folder: Path, base: BaseCard, *, promote: str | None = None
    ) -> Version:
        """Publish a folder that AdapterHub's library saved, as `import_peft` does PEFT's."""
        parts, lineage = adapterhub.read(folder, base)
        return self.publish(tenant, name, base, parts, lineage=lineage, promote=promote)

    def import_prompt(
        self, tenant: str, name: str, file: Path, base: BaseCard, *, promote: str | None = None
    ) -> Version:
        """Publish a prompt's JSON file. Raises as `publish` does; see `prompt_file`."""
        part, lineage = prompt_file.read(file)
        return self.publish(tenant, name, base, [part], lineage=lineage, promote=promote)

    def inspect(self, tenant: str, ref: str) -> Inspection:
        """Read and hash every stored byte of the version of `ref`.

        Where they are damaged, it is quarantined: `resolve` refuses it from then on. Where it is
        quarantined and they are whole again, it no longer is. Raises NotFound, Unavailable.
        """
        return inspect(self._database, self.blobs, tenant, ref)

    def version(self, digest: str) -> Version:
        """The content of `digest` under the oldest of its names. Raises NotFound."""
        with self._database.reads.connect() as connection:
            row = index.by_digest(connection, digest)
        return self._version(row)

    def manifest(self, digest: str) -> Manifest:
        """Raises NotFound or CorruptBlob."""
        return self._manifest(digest)

    def versions(self, tenant: str, name: str) -> list[Version]:
        """Oldest first; empty where the tenant has no such adapter."""
        with self._database.reads.connect() as connection:
            rows = index.version_rows(connection, tenant, name)
        return [self._version(row) for row in rows]

    def adapters(self, tenant: str) -> list[AdapterSummary]:
        """All of them, by name; see `adapter_page`."""
        with self._database.reads.connect() as connection:
            return listing.all_adapters(connection, tenant)

    # Changes

    def changes(self, after: int = 0, limit: int = MAX_CHANGES) -> list[Change]:
        """Oldest first: what has changed since the change numbered `after`, in all tenants."""
        with self._database.reads.connect() as connection:
            return changes.after(connection, after, limit)

    def follow(self, after: int | None = None) -> Follower:
        """Waits for changes from the one after `after` on; by default, from now on."""
        return Follower(self._database, after)

    def gc(self, *, grace_s: float = DEFAULT_GRACE_S, dry_run: bool = False) -> Collection:
        """Delete blobs that nothing has named for `grace_s` seconds; see `collect`.

        Raises Conflict where another collection is at work.
        """
        return collect(self._database, self.blobs, grace_s, dry_run)

    # Tenants, keys, routes

    def create_tenant(self, name: str) -> None:
        """Raises InvalidName, or Conflict where it exists."""
        with self._database.writes.begin() as connection:
            tenants.create_tenant(connection, name)

    def tenants(self) -> list[str]:
        with self._database.reads.connect() as connection:
            return tenants.tenant_names(connection)

    def create_key(
        self, tenant: str, role: str, *, expires_at: datetime | None = None
    ) -> tuple[str, str]:
        """`(key id, secret)`; the secret is shown here and never again.

        Raises InvalidName (the role), NotFound (the tenant).
        """
        with self._database.writes.begin() as connection:
            return tenants.create_key(connection, tenant, role, expires_at)

    def keys(self, tenant: str) -> list[ApiKey]:
        """Oldest first, those that have ended, too. Raises NotFound where there is no tenant."""
        with self._database.reads.connect() as connection:
            return tenants.keys(connection, tenant)

    def revoke_key(self, tenant: str, key_id: str) -> ApiKey:
        """From now on nobody's key. The same key twice is revoked once. Raises NotFound."""
        with self._database.writes.begin() as connection:
            return tenants.revoke_key(connection, tenant, key_id)

    def key_owner(self, secret: str) -> KeyOwner | None:
        """Whose key it is; None for one that has ended, exactly as for one that never was."""

        def look_up() -> ApiKey | None:
            with self._database.reads.connect() as connection:
                return tenants.by_secret(connection, secret)

        digest = tenants.hashed(secret)
        key = self._last_said.or_now(("key", digest), look_up)
        if key is not None and key.revoked_at is not None:
            # For good: a thread that read the row before it was revoked may still be about to say
            # so, and while the database is away that would be what it said last.
            self._revoked.add(digest)
        if key is None or key.state != "active" or digest in self._revoked:
            return None
        return key.owner

    def set_route(
        self, tenant: str, task: str, targets: Mapping[str, int], fallback: str | None = None
    ) -> Route:
        """Weights are shares of their sum. Raises NotFound where a target does not exist."""
        route = Route(tenant, task, dict(targets), fallback)
        with self._database.writes.begin() as connection:
            routes.set_route(connection, route)
        return route

    def route(self, tenant: str, task: str) -> Route:
        def look_up() -> Route:
            with self._database.reads.connect() as connection:
                return routes.route(connection, tenant, task)

        return self._last_said.or_now(("route", tenant, task), look_up)

    def routes(self, tenant: str) -> list[Route]:
        with self._database.reads.connect() as connection:
            return routes.route_list(connection, tenant)
