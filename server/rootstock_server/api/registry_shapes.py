"""The registry's records as the wire shows them, and how a page of a list is asked for.

Refuses to know where records come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import AdapterSummary, Version
from rootstock_registry import evaluations as measured
from rootstock_registry.records import AliasMove as Move
from rootstock_registry.records import VersionSummary
from rootstock_wire import registry as wire
from rootstock_wire.pages import Item, Page

from rootstock_server.errors import BadRequest


class PageQuery(BaseModel):
    """OpenAI's: at most `limit` items, those behind the one whose id is `after`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: Annotated[int, Field(ge=1, le=wire.MAX_PAGE)] = wire.DEFAULT_PAGE
    after: Annotated[str, Field(min_length=1, max_length=256)] | None = None


def page_of(everything: Sequence[Item], query: PageQuery) -> Page[Item]:
    """The page of a short list that is at hand as a whole."""
    start = 0
    if query.after is not None:
        ids = [each.id for each in everything]
        if query.after not in ids:
            raise BadRequest(f"after: {query.after} is not in this list", param="after")
        start = ids.index(query.after) + 1
    end = start + query.limit
    return Page.whole(everything[start:end], has_more=end < len(everything))


def number_after(query: PageQuery, name: str) -> int | None:
    """The version number in `after`, which is a version's id: `triage:4`."""
    if query.after is None:
        return None
    adapter, _, number = query.after.rpartition(":")
    if adapter != name or not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise BadRequest(f"after: is not the id of a version of {name}", param="after")
    return int(number)


def base(card: BaseCard) -> wire.RegisteredBase:
    return wire.RegisteredBase(
        id=card.name, fingerprint=card.fingerprint, task=card.task, model_type=card.model_type
    )


def adapter(summary: AdapterSummary) -> wire.Adapter:
    return wire.Adapter(
        id=summary.name,
        base=summary.base,
        kinds=list(summary.kinds),
        latest=summary.latest,
        aliases=dict(summary.aliases),
    )


def version(summary: VersionSummary) -> wire.AdapterVersion:
    return wire.AdapterVersion(
        id=summary.ref,
        adapter=summary.name,
        number=summary.number,
        digest=summary.digest,
        base=summary.base,
        kinds=list(summary.kinds),
        size=summary.size,
        aliases=list(summary.aliases),
        created_at=seconds(summary.created_at),
        yanked=summary.yanked_at is not None,
        yank_reason=summary.yank_reason,
        quarantined=summary.quarantined_at is not None,
        quarantine_reason=summary.quarantine_reason,
    )


def detail(
    whole: Version, later: Sequence[measured.Evaluation], signed_by: Sequence[str]
) -> wire.AdapterVersionDetail:
    parts = whole.manifest.parts
    return wire.AdapterVersionDetail(
        id=whole.ref,
        adapter=whole.name,
        number=whole.number,
        digest=whole.digest,
        base=whole.manifest.base.name,
        kinds=[part.kind for part in parts],
        size=sum(part.size for part in parts),
        aliases=list(whole.aliases),
        created_at=seconds(whole.created_at),
        yanked=whole.yanked_at is not None,
        yank_reason=whole.yank_reason,
        quarantined=whole.quarantined_at is not None,
        quarantine_reason=whole.quarantine_reason,
        manifest=whole.manifest.model_dump(mode="json"),
        evaluations=[evaluation(each) for each in later],
        signed_by=list(signed_by),
    )


def evaluation(one: measured.Evaluation) -> wire.Evaluation:
    return wire.Evaluation(
        dataset_digest=one.dataset_digest,
        metrics=dict(one.metrics),
        created_at=seconds(one.created_at),
    )


def alias(adapter: str, name: str, number: int) -> wire.Alias:
    return wire.Alias(id=f"{adapter}@{name}", adapter=adapter, alias=name, version=number)


def moves(history: Sequence[Move]) -> list[wire.AliasMove]:
    return [
        wire.AliasMove(id=f"move-{number}", version=move.number, moved_at=seconds(move.moved_at))
        for number, move in enumerate(history, start=1)
    ]


def seconds(moment: datetime) -> int:
    return int(moment.timestamp())
