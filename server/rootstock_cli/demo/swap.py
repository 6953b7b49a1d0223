"""The demo's swap: an alias moves to a better version while an answer is streaming.

Refuses to pretend: where an answer names the wrong digest, the demo fails.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, NamedTuple

from rootstock_cli.demo import world
from rootstock_cli.demo.making import Voices
from rootstock_cli.demo.stage import Stage, program
from rootstock_cli.demo.texts import LETTER
from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL

if TYPE_CHECKING:
    from rootstock_client import AsyncClient, TextStream
    from rootstock_registry import Version

PIECES_BEFORE = 8  # of the running answer, before the alias moves
TRIED = 10  # letters with an order number on which both versions are compared
DEADLINE = "shall reach you within"
_ORDER = re.compile(r"\b\d{5}\b")


class Score(NamedTuple):
    """In how many answers a version does what the better one was taught."""

    deadlines: int
    orders: int


class Swapped(NamedTuple):
    """What was seen: the running answer's pieces, by when they came, and the next answer."""

    running_digest: str
    before: list[str]
    after: list[str]
    next_digest: str
    next_text: str
    overlapped: bool  # the next answer had begun when the running one ended


def swap_while_streaming(stage: Stage, voices: Voices) -> None:
    """Replace formal by its better version under a running stream, and check who answered what."""
    old, new = voices.formal, voices.better
    stage.chapter("A better version takes over while an answer is streaming")
    scores = asyncio.run(_compare(stage, old, new))
    for version in (old, new):
        stage.say(
            f"{version.ref}: of {TRIED} fresh letters' answers {scores[version.ref].deadlines} "
            f"promise a decision by a date, {scores[version.ref].orders} name the right order."
        )
    if scores[new.ref].deadlines <= scores[old.ref].deadlines:
        raise Refused(f"{new.ref} is no better than {old.ref}: there is no reason to swap")
    seen = asyncio.run(_swap(stage, new))
    _check(seen, old, new)
    stage.say(
        f"{len(seen.before)} pieces of an answer had come when the alias moved to {new.ref}, and "
        f"{len(seen.after)} after it."
        + (" The next answer began beside it." if seen.overlapped else "")
    )
    stage.line(f"  the running answer finished on the old digest {seen.running_digest}")
    stage.line(f"  the next answer is the new digest's           {seen.next_digest}")
    alone = asyncio.run(_alone(stage, old))
    same = "".join(seen.before + seen.after) == alone
    stage.say(
        f"Asked alone, {old.ref} gives "
        + ("the same text, word for word." if same else "a text that differs: a near tie.")
    )
    command = f"{program('rootstock')} promote {old.ref} --to prod --home {stage.home}"
    stage.remember("swap back", command)


async def _compare(stage: Stage, old: Version, new: Version) -> dict[str, Score]:
    """What both versions' answers to the same letters say, which the first was never taught."""
    from rootstock_client import AsyncClient

    rows = world.formal_replies(8 * TRIED, seed=99, with_reference=True)
    letters = [row["messages"][0]["content"] for row in rows]
    letters = [letter for letter in letters if _ORDER.search(letter)][:TRIED]
    scores = {}
    async with AsyncClient(stage.server.url, stage.keys[LOCAL]) as client:
        for ref in (old.ref, new.ref):
            answers = await asyncio.gather(*(_answer(client, ref, each) for each in letters))
            scores[ref] = Score(
                deadlines=sum(DEADLINE in answer for answer in answers),
                orders=sum(
                    _order(letter) in answer
                    for letter, answer in zip(letters, answers, strict=True)
                ),
            )
    return scores


def _order(letter: str) -> str:
    found = _ORDER.search(letter)
    assert found is not None
    return found[0]


async def _swap(stage: Stage, new: Version) -> Swapped:
    from rootstock_client import AsyncClient

    message = [{"role": "user", "content": LETTER}]
    async with AsyncClient(stage.server.url, stage.keys[LOCAL]) as client:
        running = await client.stream_chat("formal", message, temperature=0)
        before = [await anext(running) for _ in range(PIECES_BEFORE)]
        await asyncio.to_thread(stage.registry.promote, LOCAL, new.ref, "prod")
        rest = asyncio.create_task(_rest(running))
        following = await client.stream_chat("formal", message, temperature=0)
        overlapped = not rest.done()
        next_text = "".join([piece async for piece in following])
        after = await rest
    return Swapped(running.digest, before, after, following.digest, next_text, overlapped)


async def _rest(stream: TextStream) -> list[str]:
    return [piece async for piece in stream]


async def _alone(stage: Stage, version: Version) -> str:
    from rootstock_client import AsyncClient

    async with AsyncClient(stage.server.url, stage.keys[LOCAL]) as client:
        return await _answer(client, version.ref, LETTER)


async def _answer(client: AsyncClient, model: str, letter: str) -> str:
    message = {"role": "user", "content": letter}
    answer = await client.chat(model, [message], temperature=0)
    return answer.choices[0].message.content


def _check(seen: Swapped, old: Version, new: Version) -> None:
    if not seen.after:
        raise Refused("the running answer ended before the alias moved: nothing was shown")
    if seen.running_digest != old.digest:
        raise Refused(f"the running answer is {seen.running_digest}, not the old {old.digest}")
    if seen.next_digest != new.digest:
        raise Refused(f"the next answer is {seen.next_digest}, not the new {new.digest}")
    if "".join(seen.before + seen.after) == seen.next_text:
        raise Refused("old and new version gave the same answer: nothing was replaced")
