"""Answers that follow a grammar, drawn from random weights through a real engine."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from llguidance import LLMatcher
from rootstock_server.engine.engine import Engine
from rootstock_server.engine.grammar import Grammars
from rootstock_server.engine.request import Cancel, Failed, Generate, Grammar, Token
from rootstock_server.errors import BadRequest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
# Of the tiny bases' 120 ids: 0 to 2 are special, 3 to 99 are printable ASCII and a newline.
PIECES = ["<pad>", "<s>", "</s>", *(chr(x) for x in range(33, 127)), "Ġ", "Ċ", 'Ġ"', '":', "true"]
NO_SPACES = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["red", "green"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 99},
                  "minItems": 1, "maxItems": 3},
        "done": {"type": "boolean"},
    },
    "required": ["name", "kind", "sizes", "done"],
    "additionalProperties": False,
    "x-guidance": NO_SPACES,
}  # fmt: skip


def tokenizer_file(folder: Path) -> Path:
    backend = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(PIECES)}, merges=[]))
    backend.add_special_tokens(PIECES[:3])
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture
def house(rig, tmp_path):
    """A rig whose engine reads grammars over the tokenizer above."""
    built = rig("llama")
    file = tokenizer_file(tmp_path)
    plain = built.engine
    built.engine = Engine(plain.base, built.registry.blobs, plain.scheduler._limits, file)
    yield built
    plain.close()


def schema(of: dict) -> Grammar:
    return Grammar(text=LLMatcher.grammar_from_json_schema(of), field="response_format")


def regex(pattern: str) -> Grammar:
    return Grammar(text=LLMatcher.grammar_from_regex(pattern), field="structured_outputs.regex")


def asked(house, grammar: Grammar | None, seed: int, **more: object) -> Generate:
    options = {"temperature": 1.0, "seed": seed, "max_tokens": 150, "ignore_eos": False}
    prompt = [3 + seed % 90, 5, 7]
    return house.generate(prompt, None, grammar=grammar, logprobs=None, **(options | more))


def text_of(events: list) -> str:
    """The answer's text; it must have ended by itself."""
    assert all(isinstance(event, Token) for event in events), events
    assert events[-1].finish_reason == "stop" and events[-1].token_id == 2
    pieces = "".join(PIECES[event.token_id] for event in events[:-1])
    return pieces.replace("Ġ", " ").replace("Ċ", "\n")


def test_every_answer_of_random_weights_fits_its_schema(house) -> None:
    commands = [asked(house, schema(SCHEMA), seed) for seed in range(12)]
    commands += [asked(house, schema(SCHEMA), 50, temperature=0.0)]
    answers = house.run(commands)
    texts = [text_of(answers[command.id]) for command in commands]
    for text in texts:
        value = json.loads(text)
        assert list(value) == ["name", "kind", "sizes", "done"]
        assert isinstance(value["name"], str) and len(value["name"]) <= 6
        assert value["kind"] in ("red", "green")
        assert 1 <= len(value["sizes"]) <= 3
        assert all(type(size) is int and 1 <= size <= 99 for size in value["sizes"])
        assert type(value["done"]) is bool
    assert len(set(texts)) > 8


def test_an_answer_fits_its_regex_beside_rows_with_other_rules(house) -> None:
    pattern = "[ab]{3,9}-[0-9]{2}"
    free = [asked(house, None, seed, max_tokens=12) for seed in range(3)]
    bound = [asked(house, regex(pattern), seed) for seed in range(6)]
    answers = house.run([bound[0], free[0], *bound[1:], *free[1:]])
    assert all(re.fullmatch(pattern, text_of(answers[command.id])) for command in bound)
    assert all(len(answers[command.id]) <= 12 for command in free)


def test_a_seeded_answer_with_a_grammar_is_the_same_alone_and_in_a_mixed_batch(house) -> None:
    def one() -> Generate:
        return asked(house, schema(SCHEMA), 4, frequency_penalty=0.5, top_p=0.95)

    first, second = one(), one()
    alone = text_of(house.run([first])[first.id])
    others = [asked(house, schema(SCHEMA) if n % 2 else None, n, max_tokens=40) for n in range(7)]
    answers = house.run([*others[:3], second, *others[3:]])
    assert text_of(answers[second.id]) == alone


def test_min_tokens_gives_way_where_the_grammar_is_at_its_end(house) -> None:
    command = asked(house, regex("yes|no"), 1, min_tokens=30)
    assert text_of(house.run([command])[command.id]) in ("yes", "no")


def test_min_tokens_holds_while_the_grammar_can_go_on(house) -> None:
    command = asked(house, regex("a*"), 1, min_tokens=30, logit_bias={2: 100.0})
    assert text_of(house.run([command])[command.id]) == "a" * 30


def test_a_bias_against_all_that_is_allowed_cannot_break_a_grammar(house) -> None:
    bias = {PIECES.index(x): -100.0 for x in "yesno"}
    command = asked(house, regex("yes|no"), 1, logit_bias=bias, temperature=0.0)
    assert text_of(house.run([command])[command.id]) in ("yes", "no")


HOPELESS = [
    regex("("), regex("(?=a)b"), regex("a{1000}{1000}"), schema({"type": "wat"}),
    schema({"not": {"type": "string"}}), schema({"$ref": "http://example.com/x"}),
    Grammar(text="nonsense", field="response_format"),
    schema({"allOf": [{"anyOf": [{"type": "object", "properties": {f"p{i}{j}": {"type": "string"}}}
                                 for j in range(4)]} for i in range(6)]}),
]  # fmt: skip


@pytest.mark.parametrize("grammar", HOPELESS, ids=lambda grammar: grammar.text[:40])
def test_what_cannot_be_compiled_is_refused_by_its_field_and_others_go_on(house, grammar) -> None:
    bad, good = asked(house, grammar, 1), asked(house, regex("yes|no"), 1)
    answers = house.run([bad, good])
    [failed] = answers[bad.id]
    assert isinstance(failed, Failed)
    assert (failed.error, failed.param) == ("BadRequest", grammar.field)
    assert failed.message.startswith(f"{grammar.field}: ")
    assert "backtrace" not in failed.message and len(failed.message) < 300
    assert text_of(answers[good.id]) in ("yes", "no")


def test_a_cancelled_request_is_forgotten_while_its_grammar_compiles(house) -> None:
    command = asked(house, schema(SCHEMA), 1)
    assert house.engine.apply(command) == []
    house.engine.apply(Cancel(command.id))
    after = asked(house, regex("yes|no"), 2)
    assert text_of(house.run([after])[after.id]) in ("yes", "no")
    assert not house.engine.scheduler.waiting and not house.engine.scheduler.running


def test_an_engine_without_a_tokenizer_refuses_grammars_in_words(rig) -> None:
    house = rig("llama")
    command = asked(house, regex("yes"), 1)
    [failed] = house.run([command])[command.id]
    assert failed.error == "BadRequest" and "end-of-text" in failed.message


def test_the_queue_of_grammars_is_bounded(tmp_path) -> None:
    grammars = Grammars(tokenizer_file(tmp_path), 120, frozenset({2}), 2, lambda: None)
    commands = [Generate(id=str(n), prompt_ids=[1], sampling=None) for n in range(3)]
    for command in commands[:2]:
        grammars.submit(command, regex("a" * random.randrange(1, 5)))
    with pytest.raises(Exception, match="queue is full"):
        grammars.submit(commands[2], regex("b"))
    grammars.close()


def sentencepiece_file(folder: Path) -> Path:
    """Llama's manner: a mark for each space, bytes as tokens of their own."""
    spelled = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"abyesno"]
    vocabulary = {piece: i for i, piece in enumerate(spelled)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    backend.add_special_tokens(spelled[:3])
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def wordpiece_file(folder: Path) -> Path:
    backend = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def compiled(file: Path, grammar: Grammar, vocabulary: int, eos: int) -> object:
    grammars = Grammars(file, vocabulary, frozenset({eos}), 4, lambda: None)
    grammars.submit(Generate(id="a", prompt_ids=[1], sampling=None), grammar)
    grammars.close()
    [(_, outcome)] = grammars.finished()
    return outcome


def test_spaces_and_bytes_of_a_sentencepiece_vocabulary_are_understood(tmp_path) -> None:
    matcher = compiled(sentencepiece_file(tmp_path), regex("( |é)yes"), 300, 2)
    allowed = [i for i, told in enumerate(matcher.allowed()) if told]
    assert allowed == [3 + 0x20, 3 + 0xC3, 259]  # a space as a byte, é's first byte, the mark
    for token in (259, 262, 263, 264):
        matcher.take(token)
    assert [i for i, told in enumerate(matcher.allowed()) if told] == [2]


def test_an_end_token_may_lie_beyond_the_tokenizers_own(tmp_path) -> None:
    matcher = compiled(tokenizer_file(tmp_path), regex("a"), 130, 129)
    matcher.take(PIECES.index("a"))
    assert [i for i, told in enumerate(matcher.allowed()) if told] == [129]


def test_a_tokenizer_that_cannot_be_read_for_grammars_is_said_by_field(tmp_path) -> None:
    error = compiled(wordpiece_file(tmp_path), regex("a"), 3, 0)
    assert isinstance(error, BadRequest)
    assert error.message.startswith("structured_outputs.regex: ") and "tokenizer" in error.message
