"""A part of a list, as OpenAI shapes it: `after=last_id` continues it while `has_more`.

Refuses to know what is listed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from rootstock_wire.fields import Answer


class Listed(Answer):
    """What may stand in a list: a page is continued after an `id`."""

    id: str


Item = TypeVar("Item", bound=Listed)


class Page(Answer, Generic[Item]):
    object: Literal["list"] = "list"
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def of(cls, items: Sequence[Item], limit: int) -> Page[Item]:
        """From up to `limit` + 1 items: the one too many says that there are more."""
        return cls.whole(items[:limit], has_more=len(items) > limit)

    @classmethod
    def whole(cls, items: Sequence[Item], *, has_more: bool) -> Page[Item]:
        """Exactly `items`."""
        return cls(
            data=list(items),
            first_id=items[0].id if items else None,
            last_id=items[-1].id if items else None,
            has_more=has_more,
        )
