"""What a crash may interrupt: publish, delete, collect, migrate; and what must hold afterwards."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import alembic.command
import alembic.config
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Lineage, NewPart, Registry, keeping
from rootstock_registry.collect import _LEASE_NAME
from rootstock_registry.database import _MIGRATIONS
from rootstock_registry.model import leases
from sqlalchemy import NullPool, create_engine, update

Head = Callable[[float], NewPart]


@dataclass(frozen=True)
class Scene:
    """`template` is the home before; `work` acts on a copy of it and says what it acknowledges.

    `check` gets the registry after a crash and what was acknowledged; it ends the work itself.
    """

    name: str
    template: Path
    work: Callable[[Path], str]
    check: Callable[[Registry, str | None], None]

    def fresh(self, home: Path) -> Path:
        shutil.rmtree(home, ignore_errors=True)
        if self.template.exists():
            shutil.copytree(self.template, home)
        return home


class Scenes:
    """Makes scenes in `folder`; in all of them, `triage:1` and `triage:2` were acknowledged."""

    def __init__(self, folder: Path, card: BaseCard, head: Head, lineage: Lineage) -> None:
        self._folder = folder
        self._card = card
        self._head = head
        self._lineage = lineage
        with _open(folder / "plain") as registry:
            self.first, self.second = (self.publish(registry, value) for value in (1.0, 2.0))
        with _open(self._copy("garbage")) as registry:
            registry.blobs.put(b"stray")
            registry.blobs.put(head(3.0).data)

    def publish(self, registry: Registry, value: float) -> str:
        parts = [self._head(value)]
        lineage = self._lineage
        return registry.publish(
            "local", "triage", self._card, parts, lineage=lineage, promote="prod"
        ).digest

    def publishing(self) -> Scene:
        def work(home: Path) -> str:
            with _open(home) as registry:
                return self.publish(registry, 3.0)

        def check(registry: Registry, acknowledged: str | None) -> None:
            visible = whole(registry)
            assert [self.first, self.second] == visible[:2]
            assert acknowledged in (None, *visible[2:])
            digest = self.publish(registry, 3.0)  # again: no wreck is in the way
            assert whole(registry) == [self.first, self.second, digest]
            assert_nothing_left(registry)

        return Scene("publish", self._folder / "garbage", work, check)

    def publishing_first(self) -> Scene:
        """The first publish of a home makes the folders and migrates the empty database."""

        def work(home: Path) -> str:
            with _open(home) as registry:
                return self.publish(registry, 3.0)

        def check(registry: Registry, acknowledged: str | None) -> None:
            visible = whole(registry)
            assert acknowledged in (None, *visible)
            digest = self.publish(registry, 3.0)
            assert whole(registry) == [digest]
            assert_nothing_left(registry)

        return Scene("first", self._folder / "nothing", work, check)

    def collecting(self) -> Scene:
        def work(home: Path) -> str:
            with _open(home) as registry:
                return str(registry.gc(grace_s=0).swept)

        def check(registry: Registry, acknowledged: str | None) -> None:
            assert whole(registry) == [self.first, self.second]
            assert acknowledged in (None, "2")
            assert_nothing_left(registry)

        return Scene("collect", self._folder / "garbage", work, check)

    def deleting(self) -> Scene:
        def work(home: Path) -> str:
            with _open(home) as registry:
                registry.delete_version("local", "triage:1")
                return "gone"

        def check(registry: Registry, acknowledged: str | None) -> None:
            assert whole(registry, numbers=False)[-1] == self.second
            if acknowledged is None and self.first in whole(registry, numbers=False):
                registry.delete_version("local", "triage:1")
            assert whole(registry, numbers=False) == [self.second]
            assert_nothing_left(registry)

        return Scene("delete", self._folder / "plain", work, check)

    def migrating(self) -> Scene:
        """A home of the first schema, with both versions in it."""
        home = self._copy("old")
        rows = _rows_of_the_first_schema(home)
        for path in home.glob("registry.db*"):
            path.unlink()
        engine = create_engine(f"sqlite:///{home / 'registry.db'}", poolclass=NullPool)
        config = alembic.config.Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        config.set_main_option("path_separator", "os")
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "0001")
            for table, columns, values in rows:
                marks = ", ".join("?" * len(columns))
                insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"
                connection.exec_driver_sql(insert, values)
            connection.commit()
        engine.dispose()

        def work(home: Path) -> str:
            with _open(home):
                return "done"

        def check(registry: Registry, acknowledged: str | None) -> None:
            assert acknowledged in (None, "done")
            assert whole(registry) == [self.first, self.second]
            assert registry.resolve("local", "triage").digest == self.second
            assert_nothing_left(registry)

        return Scene("migrate", home, work, check)

    def _copy(self, name: str) -> Path:
        shutil.copytree(self._folder / "plain", self._folder / name)
        return self._folder / name


class _open:
    def __init__(self, home: Path) -> None:
        self._registry = Registry(home)

    def __enter__(self) -> Registry:
        return self._registry

    def __exit__(self, *_: object) -> None:
        self._registry.close()


def _rows_of_the_first_schema(home: Path) -> Iterator[tuple[str, list[str], list[tuple[object]]]]:
    """What both schemas have in common of the rows in `home`, parents first."""
    engine = create_engine(f"sqlite:///{home / 'registry.db'}", poolclass=NullPool)
    columns = {
        "bases": ["fingerprint", "card"],
        "base_names": ["name", "fingerprint"],
        "versions": [
            "id", "tenant", "name", "number", "digest", "base_fingerprint", "created_at"
        ],
        "aliases": ["tenant", "name", "alias", "number"],
        "alias_moves": ["id", "tenant", "name", "alias", "number", "moved_at"],
    }  # fmt: skip
    with engine.connect() as connection:
        found = [
            (table, names, [tuple(row) for row in connection.exec_driver_sql(query)])
            for table, names in columns.items()
            for query in [f"SELECT {', '.join(names)} FROM {table}"]
        ]
    engine.dispose()
    return iter(found)


def whole(registry: Registry, numbers: bool = True) -> list[str]:
    """The digests of the versions of `triage`, after reading every byte of each."""
    versions = registry.versions("local", "triage")
    for version in versions:
        for part in version.manifest.parts:
            assert len(registry.blobs.get(part.blob)) == part.size
    if numbers:
        assert [version.number for version in versions] == list(range(1, len(versions) + 1))
    if versions:
        assert registry.resolve("local", "triage").number == versions[-1].number
    return [version.digest for version in versions]


def assert_nothing_left(registry: Registry) -> None:
    """After a collection, exactly what the versions need is stored, and no file beside it."""
    free_lease(registry)
    folder = registry.blobs._shelf._root  # type: ignore[attr-defined]
    for path in folder.rglob(".put-*"):
        os.utime(path, (0, 0))
    registry.gc(grace_s=0)
    needed = {
        digest
        for version in registry.versions("local", "triage")
        for digest in (version.digest, *(part.blob for part in version.manifest.parts))
    }
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    assert files == {Path("sha256", digest[7:9], digest[9:]) for digest in needed}
    with registry._database.reads.connect() as connection:
        assert keeping.needed(connection, sorted(needed)) == needed


def free_lease(registry: Registry) -> None:
    """Whoever held it was killed; a minute later, anybody could take it."""
    with registry._database.writes.begin() as connection:
        dead = leases.c.name == _LEASE_NAME
        connection.execute(update(leases).where(dead).values(expires_at=0.0))
