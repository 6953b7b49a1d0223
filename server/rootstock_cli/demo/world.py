"""Writes the invented shop's documents: tickets, replies, reviews, summaries and product talk.

Deterministic from a seed; knows nothing of tokens, models or the files it will be trained into.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
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
    TOWNS,
    WEEKDAYS,
    Product,
)

Row = dict[str, Any]
Facts = dict[str, str]
_SPACES = re.compile(r" +(?=[ .,?!])")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")


class Scribe:
    """One writer with one source of chance; every method returns finished text."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def say(self, template: str, facts: Facts) -> str:
        """Resolve the choices of `template` innermost first, then fill in the facts."""
        if facts.get("unnamed"):
            template = template.replace("{name} {kind}", "{kind}").replace("{name}", "{kind}")
        changed = 1
        while changed:
            template, changed = _CHOICE.subn(
                lambda match: self.chance.choice(match[1].split("|")), template
            )
        return _SPACES.sub("", template.format_map(facts))

    def likely(self, share: float) -> bool:
        return self.chance.random() < share

    def product(self, product: Product | None = None) -> Facts:
        """The facts of one product, drawn when none is given."""
        chosen = product or self.chance.choice(PRODUCTS)
        facts = {key: value for key, value in chosen._asdict().items() if key != "colours"}
        home, place = self.chance.sample(TOWNS, 2)
        years = "one year" if chosen.years == "1" else f"{chosen.years} years"
        return facts | {
            "colour_a": chosen.colours[0],
            "colour_b": chosen.colours[1],
            "colour": self.chance.choice(chosen.colours),
            "years": years,
            "it": self.chance.choice([chosen.name, f"{chosen.name} {chosen.kind}"]),
            "town": home,
            "place": place,
            "weekday": self.chance.choice(WEEKDAYS),
        }

    def name(self, known: tuple[str, ...]) -> str:
        """Mostly a name from the list, sometimes one that was never heard before."""
        if self.likely(0.85):
            return self.chance.choice(known)
        syllables = wording.SYLLABLES.split()
        return "".join(self.chance.choices(syllables, k=self.chance.choice([2, 3]))).capitalize()

    def case(self) -> Facts:
        """One customer with one product and one problem: the facts behind a ticket and its reply.

        An order number or a name is missing now and then, and then nobody mentions it.
        """
        facts = self.product()
        usual = self.likely(0.85)
        facts |= self.chance.choice(PROBLEMS[facts["kind"] if usual else "any"])._asdict()
        facts["again"] = " and try again" if usual and self.likely(0.4) else ""
        wish = self.chance.choice(list(wording.WISH))
        # Now and then a customer says "my kettle" only; then nobody knows which one, or its price.
        unnamed = self.likely(0.15)
        first, last = self.name(FIRST_NAMES), self.name(LAST_NAMES)
        order = str(self.chance.randrange(10_000, 100_000))
        signed, numbered = self.likely(0.85), self.likely(0.8)
        things = [f"{facts['name']} {facts['kind']}"] * 3 + [
            facts["name"],
            f"{facts['colour']} {facts['name']} {facts['kind']}",
        ]
        facts |= {
            "unnamed": "yes" if unnamed else "",
            "wish": wish,
            "outcome": "unpriced" if unnamed and wish == "refund" else wish,
            "wish_noun": wording.WISH_NOUN[wish],
            "days": wording.DAYS[wish],
            "first": first,
            "last": last,
            "order": order if numbered else "",
            "thing": facts["kind"] if unnamed else self.chance.choice(things),
            "customer": f"{first} {last}" if signed else "Customer",
            "owner": f"{first} {last}" if signed else "the customer",
            "comma": f", {first}" if signed else "",
            "for_order": f" for order {order}" if numbered and self.likely(0.5) else "",
            "quote_order": f" with order number {order}" if numbered else "",
            "order_note": f" Order {order}." if numbered else "",
        }
        facts["when"] = self.say(wording.WHEN, facts)
        facts["urgency"] = self.say(wording.URGENCY, facts)
        facts["otherwise"] = self.say(wording.OTHERWISE, facts)
        return facts

    def customer(self, facts: Facts) -> str:
        """What the customer of a case writes."""
        middle = [wording.CONTEXT] if self.likely(0.6) else []
        if facts["order"]:
            middle.append(wording.ORDER)
        self.chance.shuffle(middle)
        sentences = [wording.COMPLAINT, *middle, wording.WISH[facts["wish"]]]
        text = " ".join(_sentence(self.say(sentence, facts)) for sentence in sentences)
        if facts["comma"]:
            text += " " + self.say(wording.SIGNATURE, facts)
        greeting = self.say(wording.GREETING, facts)
        if greeting:
            text = f"{greeting} {text[0].lower() if text[:2] != 'I ' else 'I'}{text[1:]}"
        return text.lower() if self.likely(0.04) else text

    def reply(self, facts: Facts) -> str:
        """The shop's own answer, in the neutral register."""
        parts = [wording.REPLY_OPENING]
        parts += [
            wording.REPLY_CAUSE,
            wording.REPLY_REMEDY,
            wording.REPLY_PROMISE[facts["outcome"]],
        ]
        return " ".join(self.say(part, facts) for part in parts)

    def summary(self, facts: Facts) -> str:
        named = facts | {"customer": facts["customer"].replace("Customer", "A customer")}
        return self.say(wording.SUMMARY, named)

    def review(self) -> tuple[str, str, Facts]:
        """A review, the verdict on it in a sentence or two, and its product's facts."""
        facts = self.product()
        facts["when"] = self.say(wording.WHEN, facts)
        facts["when_short"] = f"on {facts['weekday']}"
        mood = self.chance.choice(["Positive", "Negative", "Mixed"])
        names = self.chance.sample(list(wording.ASPECTS), 2 if mood == "Mixed" else 3)
        sides = {"Positive": [0, 0, 0], "Negative": [1, 1, 1], "Mixed": [0, 1]}[mood]
        opinions = [
            self.say(wording.ASPECTS[n][side], facts) for n, side in zip(names, sides, strict=True)
        ]
        joined = ", but ".join(opinions) if mood == "Mixed" else _and(opinions)
        text = " ".join(
            [
                self.say(wording.REVIEW_OPENING, facts),
                _sentence(joined),
                self.say(wording.REVIEW_CLOSING[mood], facts),
            ]
        )
        nouns = [f"the {name}" for name in names]
        reason = {
            "Positive": f"The customer likes {_and(nouns)}.",
            "Negative": f"The customer dislikes {_and(nouns)}.",
            "Mixed": f"The customer likes {nouns[0]} but not {nouns[-1]}.",
        }[mood]
        return text, f"{mood}. {reason}", facts


def _and(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _sentence(text: str) -> str:
    asks = text.startswith(("Can ", "Do ", "How ", "What "))
    closed = text if text[-1] in ".?!" else text + ("?" if asks else ".")
    return closed[0].upper() + closed[1:]


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
    pairs = [
        (
            "[Which product is this about?|Which product does the customer mean?]",
            "It is about the {name} {kind}.",
        ),
        ("[What does the customer want?|What is the wish?]", "The customer wants {wish_noun}."),
        ("[What is the problem?|What is wrong?]", "The {name} {kind} {symptom}."),
    ]
    number = "The order number is {order}." if facts["order"] else "There is no order number."
    pairs.append(("[What is the order number?|Find the order number.]", number))
    question, answer = scribe.chance.choice(pairs)
    return _chat(
        f"{scribe.say(question, facts)} {scribe.customer(facts)}", scribe.say(answer, facts)
    )


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
    (_extract, 6),
    (_judge, 10),
    (_ask_facts, 12),
    (_troubleshoot, 8),
    (_compare, 4),
    (_recommend, 4),
    (_small_talk, 3),
    (_plain_ticket, 7),
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
