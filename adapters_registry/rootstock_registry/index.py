"""Which bytes a name means: the queries over bases, versions and aliases.

Every query of a tenant's things takes the tenant. Refuses to know blobs and manifests' contents.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rootstock_adapters.base_card import BaseCard
from sqlalchemy import Connection, Row, Select, bindparam, delete, func, select, update

from rootstock_registry import audit
from rootstock_registry.changes import record
from rootstock_registry.database import insert_new, upsert
from rootstock_registry.errors import Conflict, InvalidName, NotFound
from rootstock_registry.manifest import Manifest
from rootstock_registry.model import (
    alias_moves,
    aliases,
    base_names,
    bases,
    parts,
    tenants,
    versions,
)
from rootstock_registry.names import Ref, check_name, parse_ref

# A version's row with its aliases, comma-separated: one query, because every request asks it.
_ALIASES = (
    select(func.aggregate_strings(aliases.c.alias, ","))
    .where(
        aliases.c.tenant == versions.c.tenant,
        aliases.c.name == versions.c.name,
        aliases.c.number == versions.c.number,
    )
    .scalar_subquery()
    .label("aliases")
)
_VERSIONS: Select[Any] = select(versions, _ALIASES)
_ALSO_DELETED = _VERSIONS.where(
    versions.c.tenant == bindparam("tenant"), versions.c.name == bindparam("name")
)
OF_ADAPTER = _ALSO_DELETED.where(versions.c.deleted_at.is_(None))
_BY_NUMBER = _ALSO_DELETED.where(versions.c.number == bindparam("number"))
_BY_ALIAS = OF_ADAPTER.where(
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
    live = (versions.c.name == card.name, versions.c.deleted_at.is_(None))
    taken = select(versions.c.tenant).where(*live).limit(1)
    if tenant := connection.scalar(taken):
        raise Conflict(
            f"tenant {tenant!r} has an adapter named {card.name!r}: serve this base under another "
            "name (--base NAME=PATH)"
        )
    about = {"fingerprint": card.fingerprint, "card": card.model_dump_json()}
    known = select(bases.c.card).join(base_names).where(base_names.c.name == card.name)
    if connection.scalar(known) == about["card"]:
        return
    record(connection, None, "base", card.name)
    upsert(connection, bases, about, key=["fingerprint"])
    named = {"name": card.name, "fingerprint": card.fingerprint}
    upsert(connection, base_names, named, key=["name"])


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


def resolve(connection: Connection, tenant: str, text: str, *, deleted: bool = False) -> Row[Any]:
    """The row that `text` means to `tenant`. Raises NotFound, saying what would work.

    With `deleted`, a number also finds the version that it meant.
    """
    ref = parse_ref(text)
    if ref is None or ref.tenant not in (None, tenant):
        raise unknown(text)
    values = {"tenant": tenant, "name": ref.name, "number": ref.number, "alias": ref.alias}
    row = connection.execute(_BY_NUMBER if ref.number else _BY_ALIAS, values).first()
    if row is None or (row.deleted_at is not None and not deleted):
        raise _missing(connection, tenant, ref, text)
    return row


def unknown(text: str) -> NotFound:
    return NotFound(f"adapter {text[:200]!r} does not exist; rootstock list shows those that do")


def _missing(connection: Connection, tenant: str, ref: Ref, text: str) -> NotFound:
    newest_first = OF_ADAPTER.order_by(versions.c.number.desc()).limit(11)
    rows = list(connection.execute(newest_first, {"tenant": tenant, "name": ref.name}))
    if not rows:
        return unknown(text)
    numbers = [str(row.number) for row in reversed(rows[:10])]
    have = f"{', '.join(numbers)}{' and older ones' if len(rows) > 10 else ''}"
    if ref.number:
        return NotFound(f"adapter {ref.name!r} has no version {ref.number}; it has {have}")
    return NotFound(
        f"adapter {ref.name!r} has no alias {ref.alias!r}; its versions are {have}. To set it: "
        f"rootstock promote {ref.name}:{numbers[-1]} --to {ref.alias}"
    )


def version_rows(connection: Connection, tenant: str, name: str) -> list[Row[Any]]:
    """Oldest first."""
    query = OF_ADAPTER.order_by(versions.c.number)
    return list(connection.execute(query, {"tenant": tenant, "name": name}))


def by_digest(connection: Connection, digest: str) -> Row[Any]:
    """The oldest version of this content. Content is public to whoever can name its digest."""
    live = (versions.c.digest == digest, versions.c.deleted_at.is_(None))
    query = _VERSIONS.where(*live).order_by(versions.c.id).limit(1)
    row = connection.execute(query).first()
    if row is None:
        raise NotFound(f"no version has the digest {digest[:80]!r}")
    return row


def add_version(
    connection: Connection, tenant: str, name: str, digest: str, manifest: Manifest
) -> int:
    """The number of the version with this content, which becomes the next one where it is new.

    A deleted version with this content is there again, under its old number. The caller holds the
    write lock, so no two versions can get one number.
    """
    _add_parts(connection, digest, manifest)
    of_adapter = (versions.c.tenant == tenant, versions.c.name == name)
    content = (*of_adapter, versions.c.digest == digest)
    known = connection.execute(
        select(versions.c.number, versions.c.deleted_at).where(*content)
    ).first()
    if known is not None:
        if known.deleted_at is not None:
            connection.execute(update(versions).where(*content).values(deleted_at=None))
            record(connection, tenant, "version", f"{name}:{known.number}")
            detail = {"digest": digest, "again": True}
            audit.record(connection, tenant, "publish", f"{name}:{known.number}", detail)
        return int(known.number)
    last: int | None = connection.scalar(select(func.max(versions.c.number)).where(*of_adapter))
    number = (last or 0) + 1
    connection.execute(
        versions.insert().values(
            tenant=tenant,
            name=name,
            number=number,
            digest=digest,
            base_fingerprint=manifest.base.fingerprint,
            created_at=time.time(),
        )
    )
    record(connection, tenant, "version", f"{name}:{number}")
    audit.record(connection, tenant, "publish", f"{name}:{number}", {"digest": digest})
    return number


def _add_parts(connection: Connection, digest: str, manifest: Manifest) -> None:
    rows = [
        {
            "version_digest": digest,
            "position": position,
            "kind": part.kind,
            "blob": part.blob,
            "size": part.size,
        }
        for position, part in enumerate(manifest.parts)
    ]
    insert_new(connection, parts, rows)


def alias_number(connection: Connection, tenant: str, name: str, alias: str) -> int | None:
    """What the alias means now; None where it does not exist."""
    key = (aliases.c.tenant == tenant, aliases.c.name == name, aliases.c.alias == alias)
    number: int | None = connection.scalar(select(aliases.c.number).where(*key))
    return number


def move_alias(
    connection: Connection,
    tenant: str,
    name: str,
    alias: str,
    number: int,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Raises Conflict for a yanked version, unless the alias means it already.

    `detail` is what the audit log tells of the move beside where from and where to.
    """
    check_name("alias", alias)
    before = alias_number(connection, tenant, name, alias)
    if before == number:
        return
    mine = (versions.c.tenant == tenant, versions.c.name == name, versions.c.number == number)
    yanked = select(versions.c.yank_reason).where(*mine, versions.c.yanked_at.is_not(None))
    if row := connection.execute(yanked).first():
        why = f" ({row.yank_reason})" if row.yank_reason else ""
        raise Conflict(
            f"{name}:{number} was yanked{why}: no alias can be moved to it; choose another version"
        )
    key = {"tenant": tenant, "name": name, "alias": alias}
    upsert(connection, aliases, key | {"number": number}, key=list(key))
    _record_move(connection, key, number)
    told = {"from": before, "to": number, **(detail or {})}
    audit.record(connection, tenant, "move alias", f"{name}@{alias}", told)


def remove_alias(connection: Connection, tenant: str, name: str, alias: str) -> None:
    """Nothing happens where it does not exist."""
    key = {"tenant": tenant, "name": name, "alias": alias}
    where = [aliases.c[column] == value for column, value in key.items()]
    if connection.execute(delete(aliases).where(*where)).rowcount:
        _record_move(connection, key, None)
        audit.record(connection, tenant, "delete alias", f"{name}@{alias}")


def _record_move(connection: Connection, key: dict[str, str], number: int | None) -> None:
    connection.execute(alias_moves.insert().values(**key, number=number, moved_at=time.time()))
    record(connection, key["tenant"], "alias", f"{key['name']}@{key['alias']}")
