"""One writer of the invented shop: draws a case, then words the customer, the reply, the summary.

Knows one case at a time; nothing of documents, files or adapters.
"""

from __future__ import annotations

import random
import re

from rootstock_cli.demo import wording
from rootstock_cli.demo.catalogue import (
    FIRST_NAMES,
    LAST_NAMES,
    PROBLEMS,
    PRODUCTS,
    TOWNS,
    WEEKDAYS,
)

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

    def product(self) -> Facts:
        """The facts of one product, and a town and a day to speak of."""
        chosen = self.chance.choice(PRODUCTS)
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
        """A name from the list, or one that was never heard before: those can only be copied."""
        if self.likely(0.5):
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
            "for_order": f" for order {order}" if numbered and self.likely(0.8) else "",
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
        text = " ".join(sentence_of(self.say(sentence, facts)) for sentence in sentences)
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
        joined = ", but ".join(opinions) if mood == "Mixed" else listed(opinions)
        text = " ".join(
            [
                self.say(wording.REVIEW_OPENING, facts),
                sentence_of(joined),
                self.say(wording.REVIEW_CLOSING[mood], facts),
            ]
        )
        nouns = [f"the {name}" for name in names]
        reason = {
            "Positive": f"The customer likes {listed(nouns)}.",
            "Negative": f"The customer dislikes {listed(nouns)}.",
            "Mixed": f"The customer likes {nouns[0]} but not {nouns[-1]}.",
        }[mood]
        return text, f"{mood}. {reason}", facts


def listed(items: list[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}"


def sentence_of(text: str) -> str:
    asks = text.startswith(("Can ", "Do ", "How ", "What "))
    closed = text if text[-1] in ".?!" else text + ("?" if asks else ".")
    return closed[0].upper() + closed[1:]
