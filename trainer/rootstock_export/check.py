"""Parity: a written package, run by the device's own client, against the server's answers.

Refuses to know how either of them computes.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rootstock_edge import Package, Result
from tokenizers import Tokenizer

from rootstock_export.errors import ParityFailed

Probabilities = dict[str, float]
ServerAnswers = Callable[[list[str]], list[dict[str, Probabilities]]]

TOLERANCE = 1e-4  # largest difference of one probability
MARGIN = 1e-3  # where the server's two best are closer than this, either label is right
LONGEST_PROBE = 512  # tokens; a longer context is probed up to here
SHOWN = 40  # characters of a text in a message

PROBES = (
    "",
    " ",
    ".",
    "ok",
    "NO!!!",
    "Great service, thank you.",
    "Still waiting after three weeks, and nobody answers the phone.",
    "The parcel came on time. The box was open, though, and one cup had a crack in it.",
    "Füße, naïveté, Ærøskøbing, señorita, İstanbul",
    "配達がとても早かったです。ありがとう。",
    "Служба поддержки не отвечает уже неделю",
    "خدمة ممتازة وسريعة",
    "👍🏽 5/5 ❤️‍🔥 e\u0301 \u200b\u00a0\ufeff zero\tand\nlines",
    "a word with [SEP] [PAD] <s> </s> and <mask> in it",
    "x" * 300,
)
PROSE = "The blue kettle I ordered boils quickly, but it leaks from the lid when it is full."


@dataclass(frozen=True)
class ParityReport:
    """How far the package is from the server: `texts` compared, largest difference of one
    probability over all, and by head.
    """

    texts: int
    longest_tokens: int
    tolerance: float
    margin: float
    max_difference: float
    heads: dict[str, float]

    def as_json(self) -> dict[str, object]:
        return {"format": "rootstock.parity/1", **asdict(self)}


def check(folder: Path, server_answers: ServerAnswers, texts: Sequence[str]) -> ParityReport:
    """Compare the package in `folder` with the server on fixed probe texts and on `texts`.

    Raises ParityFailed where a probability differs by more than TOLERANCE, or the label differs
    although the server's two best are more than MARGIN apart.
    """
    package = Package(folder)
    count = _token_counter(folder)
    probes = [*_probes(count, package.manifest.max_length), *texts]
    device, server = package.classify(probes), server_answers(probes)
    if len(server) != len(probes):
        raise ParityFailed(f"the server answered {len(server)} of {len(probes)} texts")
    worst = dict.fromkeys(package.heads, 0.0)
    for text, ours, theirs in zip(probes, device, server, strict=True):
        for name in package.heads:
            difference = _compare(name, text, ours[name], theirs.get(name, {}))
            worst[name] = max(worst[name], difference)
    return ParityReport(
        texts=len(probes),
        longest_tokens=max(map(count, probes)),
        tolerance=TOLERANCE,
        margin=MARGIN,
        max_difference=max(worst.values()),
        heads=worst,
    )


def _compare(name: str, text: str, ours: Result, theirs: Probabilities) -> float:
    """The largest difference of one probability. Raises ParityFailed."""
    where = f"head {name}, text {text[:SHOWN]!r}"
    if ours.probs.keys() != theirs.keys():
        raise ParityFailed(
            f"{where}: the package has labels {', '.join(ours.probs)}, "
            f"the server answered with {', '.join(theirs) or 'none'}"
        )
    differences = {label: abs(ours.probs[label] - theirs[label]) for label in theirs}
    for label, difference in differences.items():
        if not difference <= TOLERANCE:  # so that NaN fails, too
            raise ParityFailed(
                f"{where}: the package gives {label} {ours.probs[label]:.6f}, the server "
                f"{theirs[label]:.6f}; {TOLERANCE:.0e} apart is allowed. "
                "Is the server running this base in float32?"
            )
    best, second = sorted(theirs, key=theirs.__getitem__, reverse=True)[:2]
    if ours.label != best and theirs[best] - theirs[second] > MARGIN:
        raise ParityFailed(f"{where}: the package says {ours.label}, the server {best}")
    return max(differences.values())


def _probes(count: Callable[[str], int], max_length: int) -> Iterator[str]:
    """Probe texts within `max_length` tokens: the server refuses longer ones, and empty ones."""
    limit = min(max_length, LONGEST_PROBE)
    yield from (text for text in PROBES if 0 < count(text) <= limit)
    words = list(itertools.islice(itertools.cycle(PROSE.split()), limit))
    for tokens in (limit // 2, limit):
        # The most words that fit; a word has a token at least.
        fitting = bisect.bisect_right(
            range(limit + 1), tokens, key=lambda n: count(" ".join(words[:n]))
        )
        yield " ".join(words[: max(fitting - 1, 1)])


def _token_counter(folder: Path) -> Callable[[str], int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda text: len(tokenizer.encode(text).ids)
