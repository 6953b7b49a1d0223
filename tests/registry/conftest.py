"""A real registry in a temporary home, on SQLite and on PostgreSQL; a tiny base; heads for it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import psycopg
import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.spec import HeadSpec
from rootstock_registry import Lineage, NewPart, Registry
from rootstock_registry.database import REVISIONS
from rootstock_registry.model_work import metadata
from safetensors.numpy import save

from tests.registry.databases import own_postgresql

LINEAGE = Lineage(method="head", seed=0)


@pytest.fixture
def card() -> BaseCard:
    return BaseCard(
        name="tiny",
        fingerprint="sha256:" + "1" * 64,
        model_type="bert",
        task="encode",
        hidden_size=8,
        layers=1,
        vocab_size=64,
        context_length=32,
        pooling="mean",
        normalize=True,
        linears={"encoder.layer.0.attention.self.query": (8, 8)},
    )


@pytest.fixture
def head() -> Callable[[float], NewPart]:
    def make(value: float, width: int = 8) -> NewPart:
        spec = HeadSpec(pooling="mean", normalize=True, labels=("no", "yes"))
        weight = np.full((2, width), value, np.float32)
        return NewPart(spec, save({"weight": weight, "bias": np.zeros(2, np.float32)}))

    return make


@pytest.fixture
def lineage() -> Lineage:
    return LINEAGE


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, home: Path) -> str | None:
    """None means SQLite in the home; for PostgreSQL, a database with nothing of another test."""
    if request.param == "sqlite":
        home.mkdir(mode=0o700)
        shutil.copy(request.getfixturevalue("sqlite_template"), home / "registry.db")
        return None
    url: str = request.getfixturevalue("cleared_database")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy: migrating waits for the disk."""
    home = tmp_path_factory.mktemp("template")
    Registry(home).close()
    return home / "registry.db"


@pytest.fixture
def opened(home: Path, database_url: str | None) -> Iterator[Callable[[], Registry]]:
    """Opens the test's registry, each time anew, as another process would; closes all of them."""
    with contextlib.ExitStack() as stack:

        def another() -> Registry:
            registry = Registry(home, database_url)
            stack.callback(registry.close)
            return registry

        yield another


@pytest.fixture
def registry(opened: Callable[[], Registry]) -> Registry:
    return opened()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """The URL of this session's own PostgreSQL, without a database's name."""
    with own_postgresql() as url:
        yield url


@pytest.fixture(scope="session")
def postgresql_admin(postgresql_server: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(f"{postgresql_server}/postgres", autocommit=True) as admin:
        yield admin


@pytest.fixture(scope="session")
def shared_database(
    postgresql_server: str,
    postgresql_admin: psycopg.Connection,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[psycopg.Connection]:
    """A migrated database, and the connection that clears it: making one takes far longer."""
    postgresql_admin.execute("CREATE DATABASE shared")
    url = f"{postgresql_server}/shared"
    Registry(tmp_path_factory.mktemp("home"), url).close()
    with psycopg.connect(url, autocommit=True) as cleaner:
        yield cleaner


@pytest.fixture
def cleared_database(postgresql_server: str, shared_database: psycopg.Connection) -> str:
    tables = [table for table in reversed(metadata.sorted_tables) if table.name != "tenants"]
    shared_database.execute(
        "".join(f"DELETE FROM {table.name};" for table in tables)
        + "DELETE FROM tenants WHERE name <> 'local';"
        + "".join(f"ALTER SEQUENCE {name} RESTART;" for name in _sequences(shared_database))
        + f"UPDATE alembic_version SET version_num = '{REVISIONS[-1]}'"
    )
    return f"{postgresql_server}/shared"


def _sequences(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute("SELECT sequencename FROM pg_sequences")]


_NUMBERS = count()


@pytest.fixture
def empty_database(postgresql_server: str, postgresql_admin: psycopg.Connection) -> Iterator[str]:
    """The URL of a database that no registry has opened yet."""
    name = f"empty_{next(_NUMBERS)}"
    postgresql_admin.execute(f"CREATE DATABASE {name}")
    yield f"{postgresql_server}/{name}"
    postgresql_admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
