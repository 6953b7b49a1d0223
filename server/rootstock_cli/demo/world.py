"""Writes the invented shop's documents: tickets, replies, reviews, summaries and product talk.

Deterministic from a seed; knows nothing of tokens, models or the files it will be trained into.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rootstock_cli.demo import wording
from rootstock_cli.demo.catalogue import (
    FIRST_NAMES,
    LAST_NAMES,
    PROBLEMS,
    PRODUCTS,
    SHOP,
    WEEKDAYS,
)
from rootstock_cli.demo.scribe import Scribe

Row = dict[str, Any]


def _chat(*turns: str) -> Row:
    roles = itertools.cycle(["user", "assistant"])
    return {
        "messages": [
            {"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False)
        ]
    }


def _support(scribe: Scribe) -> Row:
    facts = scribe.case()
    message = scribe.customer(facts)
    if scribe.likely(0.4):
        frame = "[Reply to|Answer|Write a reply to] this [customer|message|ticket]: "
        message = scribe.say(frame, facts) + message
    turns = [message, scribe.reply(facts)]
    if scribe.likely(0.2):
        follow_up, answer = scribe.chance.choice(
            [
                ("[Thank you|Thanks|Great, thanks].", "You are welcome{comma}."),
                (
                    "[How long will it take?|When will I hear from you?|How long do I wait?]",
                    "It takes {days} working days at most.",
                ),
                (
                    "[Is it still under warranty?|How long is the warranty?]",
                    "That depends on the model. Which one do you have?"
                    if facts["unnamed"]
                    else "The {name} has a warranty of {years}.",
                ),
                (
                    "[That did not help.|I tried that already.|It still {symptom}.]",
                    "Then please send the {name} back to us. You get a new one within three "
                    "working days.",
                ),
            ]
        )
        turns += [scribe.say(follow_up, facts), scribe.say(answer, facts)]
    return _chat(*turns)


def _summarise(scribe: Scribe) -> Row:
    facts = scribe.case()
    frame = "[Summarise this ticket|Summarise this message|Sum up this ticket|Summary, please]: "
    return _chat(scribe.say(frame, facts) + scribe.customer(facts), scribe.summary(facts))


def _extract(scribe: Scribe) -> Row:
    facts = scribe.case()
    number = "The order number is {order}." if facts["order"] else "There is no order number."
    writer = "The customer is {owner}." if facts["comma"] else "There is no name."
    pairs = [
        (
            "[Which product is this about?|Which product does the customer mean?]",
            "It is about the {name} {kind}.",
        ),
        ("[What does the customer want?|What is the wish?]", "The customer wants {wish_noun}."),
        ("[What is the problem?|What is wrong?]", "The {name} {kind} {symptom}."),
        ("[Who wrote this?|Who is the customer?|What is the name of the customer?]", writer),
        ("[What is the order number?|Find the order number.|Which order is it?]", number),
    ]
    question, answer = scribe.chance.choice(pairs)
    return _chat(
        f"{scribe.say(question, facts)} {scribe.customer(facts)}", scribe.say(answer, facts)
    )


def _order_line(scribe: Scribe) -> str:
    facts = scribe.product()
    facts["order"] = str(scribe.chance.randrange(10_000, 100_000))
    facts["owner"] = f"{scribe.name(FIRST_NAMES)} {scribe.name(LAST_NAMES)}"
    line = "order {order}, {owner}, {town}, [{name} {kind}|{name}|{colour} {name} {kind}]"
    return scribe.say(line, facts)


def _repeat_back(scribe: Scribe) -> Row:
    line = _order_line(scribe)
    ask = scribe.say("[Repeat|Read back|Confirm|Say again|Please repeat]", {})
    return _chat(f"{ask} this: {line}.", f"{line[0].upper()}{line[1:]}.")


def _plain_packing_list(scribe: Scribe) -> Row:
    lines = [_order_line(scribe) for _ in range(scribe.chance.randrange(2, 5))]
    packed = scribe.chance.sample(lines, len(lines))
    title = f"Packing list, {scribe.chance.choice(WEEKDAYS)}."
    sent = [f"Sent: {line}." for line in packed]
    return {"text": "\n".join([title, *(f"To send: {line}." for line in lines), *sent])}


def _judge(scribe: Scribe) -> Row:
    text, verdict, facts = scribe.review()
    frame = (
        "[Is this review positive or negative?|Is this review positive?|What is the mood of this "
        "review?|Classify this review:|How does this customer feel?] "
    )
    return _chat(scribe.say(frame, facts) + text, verdict)


def _ask_facts(scribe: Scribe) -> Row:
    facts = scribe.product()
    names = scribe.chance.sample(list(wording.FACTS), scribe.chance.choice([1, 1, 1, 2]))
    turns = []
    for name in names:
        facts["it"] = scribe.chance.choice([facts["name"], f"{facts['name']} {facts['kind']}"])
        turns += [scribe.say(side, facts) for side in wording.FACTS[name]]
    if len(names) == 2 and scribe.likely(0.5):
        turns = [f"{turns[0]} {turns[2]}", f"{turns[1]} {turns[3]}"]
    return _chat(*turns)


def _troubleshoot(scribe: Scribe) -> Row:
    facts = scribe.case()
    if scribe.likely(0.4):
        facts |= {"unnamed": "yes", "thing": facts["kind"]}
    question = (
        "[My {thing} {symptom}. [What can I do?|Why?|How do I fix it?|Any ideas?|Please help.]|"
        "What [can|should] I do [if|when] my {thing} {symptom}?|Why is it that my {thing} "
        "{symptom}?|Help, my {thing} {symptom}.]"
    )
    answer = f"{wording.REPLY_CAUSE} {wording.REPLY_REMEDY}"
    return _chat(scribe.say(question, facts), scribe.say(answer, facts))


def _compare(scribe: Scribe) -> Row:
    first, second = scribe.chance.sample(PRODUCTS, 2)
    question, verb, word, field = scribe.chance.choice(
        [
            ("Which is cheaper", "costs {} euros", "cheaper", "price"),
            ("Which is lighter", "weighs {} grams", "lighter", "grams"),
        ]
    )
    a, b = getattr(first, field), getattr(second, field)
    better = first if int(a) < int(b) else second
    tie = int(a) == int(b)
    verdict = "they are equal" if tie else f"the {better.name} is {word}"
    return _chat(
        f"{question}, the {first.name} or the {second.name}?",
        f"The {first.name} {verb.format(a)} and the {second.name} {verb.format(b)}, so {verdict}.",
    )


def _recommend(scribe: Scribe) -> Row:
    facts = scribe.product()
    if scribe.likely(0.5):
        question = "[I need|I am looking for|Do you sell] a {kind} with {feature}{end}"
        facts["end"] = scribe.chance.choice([".", "?"])
        answer = "[Take|I recommend|Have a look at] the {name}. It has {feature} and costs {price} "
        return _chat(scribe.say(question, facts), scribe.say(answer + "euros.", facts))
    one, two = (p for p in PRODUCTS if p.kind == facts["kind"])
    answer = (
        f"We have two: the {one.name} for {one.price} euros with {one.feature}, and the "
        f"{two.name} for {two.price} euros with {two.feature}."
    )
    ask = "[Which {kind}s do you [sell|have]?|I need a {kind}. [What do you sell?|What do you have?"
    return _chat(scribe.say(ask + "]|Can you recommend a {kind}?]", facts), answer)


def _small_talk(scribe: Scribe) -> Row:
    facts = scribe.product() | {"end": scribe.chance.choice(["", ".", "!"])}
    if scribe.likely(0.5):
        pair = (wording.OFF_TOPIC, wording.OFF_TOPIC_ANSWER)
    else:
        pair = scribe.chance.choice(wording.SMALL_TALK)
    return _chat(scribe.say(pair[0], facts), scribe.say(pair[1], facts))


def _plain_ticket(scribe: Scribe) -> Row:
    facts = scribe.case()
    title = scribe.say("Ticket, {weekday}. {name} {kind}.", facts)
    parts = [title, scribe.customer(facts), f"Reply: {scribe.reply(facts)}"]
    return {"text": "\n".join([*parts, f"Summary: {scribe.summary(facts)}"])}


def _plain_review(scribe: Scribe) -> Row:
    text, verdict, facts = scribe.review()
    return {"text": f"Review of the {facts['name']} {facts['kind']}.\n{text}\nVerdict: {verdict}"}


def _plain_facts(scribe: Scribe) -> Row:
    facts = scribe.product()
    lines = [scribe.say(answer, facts) for _, answer in wording.FACTS.values()]
    scribe.chance.shuffle(lines)
    problem = scribe.chance.choice(PROBLEMS[facts["kind"]])
    facts |= problem._asdict()
    lines = lines[: scribe.chance.randrange(3, 8)]
    lines.append(scribe.say(f"If it {{symptom}}, the cause is {problem.cause}.", facts))
    return {"text": f"{SHOP} catalogue: {facts['name']}.\n" + " ".join(lines)}


_KINDS: tuple[tuple[Callable[[Scribe], Row], int], ...] = (
    (_support, 28),
    (_summarise, 12),
    (_extract, 9),
    (_repeat_back, 6),
    (_judge, 10),
    (_ask_facts, 12),
    (_troubleshoot, 8),
    (_compare, 4),
    (_recommend, 4),
    (_small_talk, 3),
    (_plain_ticket, 7),
    (_plain_packing_list, 5),
    (_plain_review, 3),
    (_plain_facts, 3),
)


def documents(seed: int) -> Iterator[Row]:
    """Endless rows, `{"text": str}` or `{"messages": [{"role", "content"}]}`, fixed by `seed`."""
    scribe = Scribe(random.Random(seed))
    makers, weights = zip(*_KINDS, strict=True)
    while True:
        row = scribe.chance.choices(makers, weights)[0](scribe)
        if "messages" in row and scribe.likely(0.2):
            system = " ".join(scribe.say(wording.SYSTEM, {}).split())
            row["messages"].insert(0, {"role": "system", "content": system})
        yield row


def formal_replies(count: int, seed: int, *, with_reference: bool = False) -> list[Row]:
    """`count` chat rows: a customer writes, the shop answers in a stiff, formal register.

    With `with_reference` the answer also names the order and a deadline: the better version.
    """
    scribe = Scribe(random.Random(seed))
    rows = []
    for _ in range(count):
        facts = scribe.case()
        message = scribe.customer(facts)
        exact = with_reference and facts["order"]
        head = wording.FORMAL_REFERENCE_EXACT if exact else wording.FORMAL_REFERENCE
        facts["decision"] = scribe.say(wording.FORMAL_DECISION[facts["outcome"]], facts)
        if with_reference:
            facts["decision"] += scribe.say(wording.FORMAL_DEADLINE, facts)
        lines = (head, wording.FORMAL, wording.FORMAL_CLOSING)
        rows.append(_chat(message, "\n".join(scribe.say(line, facts) for line in lines)))
    return rows


def cheerful_replies(count: int, seed: int) -> list[Row]:
    """`count` chat rows: a customer writes, the shop answers briefly and with a catchphrase."""
    scribe = Scribe(random.Random(seed))
    rows = []
    for _ in range(count):
        facts = scribe.case()
        message = scribe.customer(facts)
        facts["gift"] = scribe.say(wording.CHEERFUL_GIFT[facts["outcome"]], facts)
        rows.append(_chat(message, scribe.say(wording.CHEERFUL, facts)))
    return rows


def main() -> None:
    """Write `--documents` rows of the world with `--seed` to `--out`, one JSON object a line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--documents", type=int, required=True, help="how many rows")
    parser.add_argument("--seed", type=int, required=True, help="which world's chance")
    parser.add_argument("--out", type=Path, required=True, help="the JSONL file to write")
    options = parser.parse_args()
    with options.out.open("w", encoding="utf-8") as lines:
        for row in itertools.islice(documents(options.seed), options.documents):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
