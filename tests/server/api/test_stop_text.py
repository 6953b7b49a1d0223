"""Stop strings: text goes out as soon as it is certain, and never a part of a stop string."""

from __future__ import annotations

import random

from rootstock_server.api.stream import StopText


def _run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    stop, out = StopText(stops), ""
    for piece in pieces:
        text, hit = stop.push(piece)
        out += text
        if hit:
            return out, True
    return out + stop.flush(), False


def test_text_without_a_beginning_of_a_stop_string_is_not_held_back() -> None:
    assert StopText(["END"]).push("hello") == ("hello", False)


def test_a_possible_beginning_is_held_back_until_it_is_certain() -> None:
    stop = StopText(["END"])
    assert stop.push("helloE") == ("hello", False)
    assert stop.push("N") == ("", False)
    assert stop.push("T") == ("ENT", False)


def test_a_stop_string_over_several_pieces_is_cut_away() -> None:
    assert _run(["\n\n"], ["a", "\n", "\nb"]) == ("a", True)


def test_the_earliest_of_several_stop_strings_wins() -> None:
    assert _run(["world", "lo w"], ["hello world"]) == ("hel", True)


def test_what_was_held_back_comes_out_at_the_end() -> None:
    assert _run(["END"], ["the EN"]) == ("the EN", False)


def test_any_way_of_cutting_a_text_into_pieces_gives_the_same_answer() -> None:
    rng = random.Random(0)
    for _ in range(300):
        text = "".join(rng.choices("ab", k=rng.randrange(12)))
        stops = ["".join(rng.choices("ab", k=rng.randrange(1, 5))) for _ in range(2)]
        cuts = sorted(rng.choices(range(len(text) + 1), k=3))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        place = min((p for s in stops if (p := text.find(s)) >= 0), default=None)
        expected = (text, False) if place is None else (text[:place], True)
        # Pieces may end the text earlier than the whole does only if a longer stop begins sooner.
        out, hit = _run(stops, pieces)
        assert hit == expected[1]
        assert text.startswith(out)
        assert hit or out == text
