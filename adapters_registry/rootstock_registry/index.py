"""Which bytes a name means: the queries over bases, versions and aliases.

Every query of a tenant's things takes the tenant. Refuses to know blobs and manifests' contents.
"""

from __future__ import annotations

import time
from typing import Any

from rootstock_adapters.base_card import BaseCard
from sqlalchemy import Connection, Row, Select, bindparam, func, select
from sqlalchemy.dialects.sqlite import insert

from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.model import (
    alias_moves,
    aliases,
    base_names,
    bases,
    tenants,
    versions,
)
from rootstock_registry.names import Ref, check_name, parse_ref

# A version's row with its aliases, comma-separated: one query, because every request asks it.
_ALIASES = (
    select(func.group_concat(aliases.c.alias))
    .where(
        aliases.c.tenant == versions.c.tenant,
        aliases.c.name == versions.c.name,
        aliases.c.number == versions.c.number,
    )
    .scalar_subquery()
    .label("aliases")
)
_VERSIONS: Select[Any] = select(versions, _ALIASES)
_OF_ADAPTER = _VERSIONS.where(
    versions.c.tenant == bindparam("tenant"), versions.c.name == bindparam("name")
)
_BY_NUMBER = _OF_ADAPTER.where(versions.c.number == bindparam("number"))
_BY_ALIAS = _OF_ADAPTER.where(
    versions.c.number
    == select(aliases.c.number)
    .where(
        aliases.c.tenant == bindparam("tenant"),
        aliases.c.name == bindparam("name"),
        aliases.c.alias == bindparam("alias"),
    )
    .scalar_subquery()
)


def check_tenant(connection: Connection, tenant: str) -> None:
    if connection.scalar(select(tenants.c.name).where(tenants.c.name == tenant)) is None:
        raise NotFound(
            f"tenant {tenant[:80]!r} does not exist; make it with: rootstock tenant create NAME"
        )


def add_base(connection: Connection, card: BaseCard) -> None:
    check_name("base", card.name)
    taken = select(versions.c.tenant).where(versions.c.name == card.name).limit(1)
    if tenant := connection.scalar(taken):
        raise Conflict(
            f"tenant {tenant!r} has an adapter named {card.name!r}: serve this base under another "
            "name (--base NAME=PATH)"
        )
    row = insert(bases).values(fingerprint=card.fingerprint, card=card.model_dump_json())
    connection.execute(
        row.on_conflict_do_update(index_elements=["fingerprint"], set_={"card": row.excluded.card})
    )
    name = insert(base_names).values(name=card.name, fingerprint=card.fingerprint)
    connection.execute(
        name.on_conflict_do_update(
            index_elements=["name"], set_={"fingerprint": name.excluded.fingerprint}
        )
    )


def knows_base(connection: Connection, fingerprint: str) -> bool:
    query = select(bases.c.fingerprint).where(bases.c.fingerprint == fingerprint)
    return connection.scalar(query) is not None


def base(connection: Connection, name_or_fingerprint: str) -> BaseCard:
    named = (
        select(bases.c.card, base_names.c.name)
        .join(base_names)
        .where(base_names.c.name == name_or_fingerprint)
    )
    if row := connection.execute(named).first():
        return BaseCard.model_validate_json(row.card).model_copy(update={"name": row.name})
    card = connection.scalar(select(bases.c.card).where(bases.c.fingerprint == name_or_fingerprint))
    if card is None:
        names = ", ".join(connection.scalars(select(base_names.c.name).order_by("name")))
        raise NotFound(
            f"base {name_or_fingerprint[:80]!r} is not registered (registered: {names or 'none'})"
        )
    return BaseCard.model_validate_json(card)


def base_list(connection: Connection) -> list[BaseCard]:
    query = select(bases.c.card, base_names.c.name).join(base_names).order_by(base_names.c.name)
    return [
        BaseCard.model_validate_json(row.card).model_copy(update={"name": row.name})
        for row in connection.execute(query)
    ]


def check_adapter_name(connection: Connection, name: str) -> None:
    check_name("adapter", name)
    taken = select(base_names.c.name).where(base_names.c.name == name)
    if connection.scalar(taken) is not None:
        raise InvalidName(f"adapter {name!r}: a base has this name; choose another")


def resolve(connection: Connection, tenant: str, text: str) -> Row[Any]:
    """The row that `text` means to `tenant`. Raises NotFound, saying what would work."""
    ref = parse_ref(text)
    if ref is None or ref.tenant not in (None, tenant):
        raise _unknown(text)
    values = {"tenant": tenant, "name": ref.name, "number": ref.number, "alias": ref.alias}
    row = connection.execute(_BY_NUMBER if ref.number else _BY_ALIAS, values).first()
    if row is None:
        raise _missing(connection, tenant, ref, text)
    return row


def _unknown(text: str) -> NotFound:
    return NotFound(f"adapter {text[:200]!r} does not exist; rootstock list shows those that do")


def _missing(connection: Connection, tenant: str, ref: Ref, text: str) -> NotFound:
    rows = version_rows(connection, tenant, ref.name)
    if not rows:
        return _unknown(text)
    numbers = [str(row.number) for row in rows[-10:]]
    have = f"{', '.join(numbers)}{' and older ones' if len(rows) > 10 else ''}"
    if ref.number:
        return NotFound(f"adapter {ref.name!r} has no version {ref.number}; it has {have}")
    return NotFound(
        f"adapter {ref.name!r} has no alias {ref.alias!r}; its versions are {have}. To set it: "
        f"rootstock promote {ref.name}:{numbers[-1]} --to {ref.alias}"
    )


def version_rows(connection: Connection, tenant: str, name: str) -> list[Row[Any]]:
    query = _OF_ADAPTER.order_by(versions.c.number)
    return list(connection.execute(query, {"tenant": tenant, "name": name}))


def by_digest(connection: Connection, digest: str) -> Row[Any]:
    """The oldest version of this content. Content is public to whoever can name its digest."""
    query = _VERSIONS.where(versions.c.digest == digest).order_by(versions.c.id).limit(1)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"no version has the digest {digest[:80]!r}")
    return row


def adapter_rows(connection: Connection, tenant: str) -> list[Row[Any]]:
    """The latest version of each of the tenant's adapters, by name."""
    latest = (
        select(versions.c.name, func.max(versions.c.number).label("number"))
        .where(versions.c.tenant == tenant)
        .group_by(versions.c.name)
        .subquery()
    )
    query = select(versions).join(
        latest,
        (versions.c.name == latest.c.name) & (versions.c.number == latest.c.number),
    )
    return list(
        connection.execute(query.where(versions.c.tenant == tenant).order_by(versions.c.name))
    )


def alias_rows(connection: Connection, tenant: str) -> list[Row[Any]]:
    query = select(aliases).where(aliases.c.tenant == tenant).order_by(aliases.c.alias)
    return list(connection.execute(query))


def add_version(
    connection: Connection, tenant: str, name: str, digest: str, fingerprint: str
) -> int:
    """The number of the version with this content, which becomes the next one where it is new.

    The caller holds the write lock, so no two versions can get one number.
    """
    of_adapter = (versions.c.tenant == tenant, versions.c.name == name)
    known: int | None = connection.scalar(
        select(versions.c.number).where(*of_adapter, versions.c.digest == digest)
    )
    if known is not None:
        return known
    last: int | None = connection.scalar(select(func.max(versions.c.number)).where(*of_adapter))
    number = (last or 0) + 1
    connection.execute(
        versions.insert().values(
            tenant=tenant,
            name=name,
            number=number,
            digest=digest,
            base_fingerprint=fingerprint,
            created_at=time.time(),
        )
    )
    return number


def move_alias(connection: Connection, tenant: str, name: str, alias: str, number: int) -> None:
    check_name("alias", alias)
    key = {"tenant": tenant, "name": name, "alias": alias}
    where = [aliases.c[column] == value for column, value in key.items()]
    if connection.scalar(select(aliases.c.number).where(*where)) == number:
        return
    row = insert(aliases).values(**key, number=number)
    connection.execute(
        row.on_conflict_do_update(index_elements=list(key), set_={"number": row.excluded.number})
    )
    connection.execute(alias_moves.insert().values(**key, number=number, moved_at=time.time()))
