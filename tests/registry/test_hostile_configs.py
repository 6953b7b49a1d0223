"""Hostile configs and folders: each is refused by its field, at once, and leaves no trace."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rootstock_registry import Registry
from rootstock_registry.errors import InvalidArtifact, InvalidName, RegistryError, WrongBase

from tests.registry.folders import CARD, CONFIG, FOLDERS, LORA, WEIGHTS, taken, written

BOMB = "(a+)+" * 20 + "$"  # takes for ever to not match
TEXTS = {
    "an address": "https://example.org/x", "a bucket": "s3://bucket/x", "NUL": "x\0",
    "colour": "\x1b[31m", "a line break": "x\ny",
    "right to left": "\u202ex", "half a surrogate": "\ud800", "two thousand letters": "x" * 2000,
    "a number": 7, "a list": ["x"], "a table": {"x": 1},
}  # fmt: skip
CODE = {"base_model_class": "LlamaForCausalLM", "parent_library": "transformers.models.llama"}

# kind → field → values, each of which alone is refused by the field's name.
FIELDS: dict[str, dict[str, dict[str, Any]]] = {
    "lora": {
        "auto_mapping": {
            "os": CODE | {"parent_library": "os"},
            "a file": CODE | {"parent_library": "/tmp/evil.py"},
            "dots": CODE | {"parent_library": "transformers.models..evil"},
            "a neighbour": CODE | {"parent_library": "transformers_evil.models.x"},
            "a call": CODE | {"base_model_class": "__import__('os')"},
            "more": CODE | {"trust_remote_code": True}, "a text": "os", "a list": ["os"],
        },
        "base_model_name_or_path": TEXTS, "revision": TEXTS,
        "task_type": {"unknown": "EVAL", "a list": ["CAUSAL_LM"], "a number": 1},
        "megatron_core": {"os": "os", "a list": []}, "megatron_config": {"a table": {"x": 1}},
        "runtime_config": {"more": {"device": "cuda"}, "a text": "x"},
        "trust_remote_code": {"true": True, "a text": "yes"},
        "tokenizer_kwargs": {"remote code": {"trust_remote_code": True}},
        "chat_template": {"jinja": "{{ ''.__class__ }}"}, "download_url": {"http": "http://x"},
        "r": {"none": None, "0": 0, "-1": -1, "257": 257, "2^63": 1 << 63, "float": 2.0,
              "text": "2", "true": True, "list": [2]},
        "lora_alpha": {"none": None, "0": 0, "-1": -1, "1e300": 1e300, "text": "4", "true": True},
        "lora_dropout": {"2": 2, "-1": -1, "text": "0"},
        "use_dora": {"text": "no", "1": 1}, "use_rslora": {"text": "no", "2": 2},
        "bias": {"some": "some", "a table": {"q": 1}},
        "rank_pattern": {"a bomb": {BOMB: 2}, "a list": [2], "over": {"q_proj": 257},
                         "0": {"q_proj": 0}, "negative": {"q_proj": -2}, "text": {"q_proj": "2"},
                         "a line break": {"q_proj\n": 2}, "anything": {".*": 2}},
        "alpha_pattern": {"a bomb": {BOMB: 2}, "0": {"q_proj": 0}, "negative": {"v_proj": -1},
                          "true": {"q_proj": True}, "null": {"q_proj": None}},
        "target_modules": {"twice": ["q_proj", "q_proj", "v_proj"], "numbers": [1], "a number": 1,
                           "others": ["k_proj"], "one of them": ["q_proj"], "none of them": [],
                           "an address": ["q_proj", "http://x"], "a table": {"q_proj": 1}},
        "modules_to_save": {"absent": ["norm"], "a text": "norm", "numbers": [1], "a bomb": [BOMB]},
        "exclude_modules": {"numbers": [1], "a table": {"q": 1}},
        "layers_to_transform": {"text": "0", "floats": [0.5]},
        "layers_pattern": {"a number": 1}, "layer_replication": {"pairs": [[0, 2]]},
        "init_lora_weights": {"pissa": "pissa", "loftq": "loftq", "a list": ["gaussian"]},
        "peft_type": {"unknown": "EVIL", "none": None, "a list": ["LORA"], "lower": "lora"},
        "peft_version": {"half a surrogate": "\ud800", "a list": ["0.21"]},
    },
    "ia3": {
        "feedforward_modules": {"a text": "q_proj", "a bomb": BOMB, "a table": {"q_proj": 1}},
        "target_modules": {"twice": ["q_proj", "v_proj", "v_proj"], "one of them": ["v_proj"]},
        "modules_to_save": {"absent": ["lm_head"]},
        "auto_mapping": {"os": {"parent_library": "os"}}, "lora_alpha": {"of a LoRA": 4},
    },
    "soft": {
        "num_virtual_tokens": {"none": None, "0": 0, "-3": -3, "2^40": 1 << 40, "true": True,
                               "float": 3.0, "text": "3", "as long as the context": 32},
        "tokenizer_kwargs": {"remote code": {"trust_remote_code": True}, "a text": "x"},
        "tokenizer_name_or_path": TEXTS, "token_dim": {"negative": -8, "text": "8"},
        "num_layers": {"2^60": 1 << 60}, "auto_mapping": {"os": {"parent_library": "os"}},
        "modules_to_save": {"a head": ["lm_head"]}, "trust_remote_code": {"true": True},
    },
    "hub": {
        "config": {"none": None, "a text": "pfeiffer", "an address": "https://adapterhub.ml/x",
                   "a list": [], "of a LoRA": {"architecture": "lora", "r": 8}},
        "model_type": {"gpt2": "gpt2", "a list": ["bert"]},
        "name": {"another": "other", "a path": "../task"}, "auto_map": {"code": {"X": "x.py"}},
    },
}  # fmt: skip
PROMPTS = {
    "nothing": "", "a list": "[]", "no place": '{"template": "Q:"}', "code": '{"code": "x"}',
    "empty": "{}", "a number": '{"template": 1}', "twice": '{"system": "a", "system": "b"}',
    "deep": '{"system":' * 50_000, "NaN": '{"system": NaN}',
    "a megabyte": '{"system": "' + "x" * 1_000_000 + '"}',
    "too long": " " * (5 << 20), "UTF-16": '{"system": "a"}'.encode("utf-16").decode("latin-1"),
    "half a surrogate": '{"system": "\\ud800"}',
    "1,000 examples": json.dumps({"examples": [{"input": "a", "output": "b"}] * 1000}),
}  # fmt: skip


GOOD = json.dumps(LORA[0]).encode()
TEXT = {
    "empty": b"", "null": b"null", "a list": b"[]", "cut": GOOD[:-1], "twice": GOOD * 2,
    "a field twice": GOOD[:-1] + b', "peft_type": "LORA"}', "NaN": b'{"r": NaN}',
    "Infinity": b'{"lora_alpha": -Infinity}', "1e999": b'{"lora_alpha": 1e999}',
    "10,000 digits": b'{"r": ' + b"9" * 10_000 + b"}", "deep": b'{"a":' * 100_000,
    "deep lists": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "YAML": b"peft_type: LORA\n",
    "UTF-16": GOOD.decode().encode("utf-16"), "Latin-1": b'{"revision": "\xe9"}',
    "a byte order mark": b"\xef\xbb\xbf" + GOOD, "two megabytes": b" " * (2 << 20),
    "a pickle": b"\x80\x04N.", "Python": b"{'peft_type': 'LORA'}",
    "half a surrogate": b'{"revision": "\\ud800"}', "a key of half a pair": b'{"\\udc00": 1}',
    "100,000 keys": json.dumps(dict.fromkeys(map(str, range(80_000)), 1)).encode(),
}  # fmt: skip


def link(path: Path, to: str) -> None:
    path.unlink()
    path.symlink_to(to)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def listening(path: Path) -> None:
    path.unlink()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


KINDS_OF_FILES: dict[str, Callable[[Path], Any]] = {
    "absent": Path.unlink, "a directory": directory, "a fifo": fifo, "a socket": listening,
    "a link to a secret": lambda path: link(path, "/etc/passwd"),
    "a link to zeros": lambda path: link(path, "/dev/zero"),
    "a link to itself": lambda path: link(path, path.name),
    "a link out of the folder": lambda path: link(path, "../elsewhere"),
    "a link to a memory map": lambda path: link(path, "/proc/self/mem"),
    "a sparse terabyte": lambda path: os.truncate(path, 1 << 40),
}  # fmt: skip
CASES = [
    pytest.param(kind, field, value, id=f"{kind}: {field}: {what}")
    for kind, fields in FIELDS.items()
    for field, values in fields.items()
    for what, value in values.items()
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "home"


@pytest.fixture(scope="module")
def registry(home: Path) -> Iterator[Registry]:
    registry = Registry(home)
    yield registry
    registry.close()


@pytest.fixture
def refused(registry: Registry, home: Path) -> Callable[..., None]:
    def check(take: Callable[[], Any], words: str, *kinds: type[RegistryError]) -> None:
        started = time.thread_time()
        with pytest.raises(kinds or (InvalidArtifact, WrongBase), match=words) as caught:
            take()
        assert time.thread_time() - started < 1
        assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()
        assert registry.adapters("local") == registry.versions("local", "triage") == []
        assert [path for path in (home / "blobs").rglob("*") if path.is_file()] == []

    return check


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 150


@pytest.mark.parametrize("kind", FOLDERS)
def test_the_folders_that_they_were_made_of_are_taken(tmp_path: Path, kind: str) -> None:
    registry = Registry(tmp_path / "home")
    assert taken(registry, kind, written(tmp_path, kind)).number == 1
    registry.close()


@pytest.mark.parametrize(("kind", "field", "value"), CASES)
def test_a_field_with_a_hostile_value_is_refused_by_its_name(
    registry: Registry, refused: Callable[..., None], tmp_path: Path,
    kind: str, field: str, value: Any,
) -> None:  # fmt: skip
    folder = written(tmp_path, kind, **{field: value})
    # What a number of another size makes of the tensors is said by the tensors' shapes.
    refused(lambda: taken(registry, kind, folder), f"{field}|expected|adapters.task|module")


@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.parametrize("what", TEXT)
def test_a_config_that_is_no_json_object_is_refused(
    registry: Registry, refused: Callable[..., None], tmp_path: Path, kind: str, what: str
) -> None:
    folder = written(tmp_path, kind)
    (folder / CONFIG).write_bytes(TEXT[what])
    refused(lambda: taken(registry, kind, folder), r"adapter_config\.json", InvalidArtifact)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("what", KINDS_OF_FILES)
def test_what_is_no_plain_file_is_refused(
    registry: Registry, refused: Callable[..., None], tmp_path: Path, file: str, what: str
) -> None:
    folder = written(tmp_path, "lora")
    (tmp_path.parent / "elsewhere").write_bytes(LORA[1])
    KINDS_OF_FILES[what](folder / file)
    refused(lambda: taken(registry, "lora", folder), file)


@pytest.mark.parametrize("what", [*PROMPTS, *KINDS_OF_FILES])
def test_a_hostile_prompt_file_is_refused(
    registry: Registry, refused: Callable[..., None], tmp_path: Path, what: str
) -> None:
    file = tmp_path / "asker.json"
    file.write_text(PROMPTS.get(what, '{"template": "Q: {input}"}'), encoding="latin-1")
    if what in KINDS_OF_FILES:
        KINDS_OF_FILES[what](file)
    words = r"asker\.json"
    refused(lambda: registry.import_prompt("local", "triage", file, CARD), words, InvalidArtifact)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", "/etc", "a\0", "a\n", "A", "-a", "\u0430", "a\u200b", "\ud800",
     "a" * 65, "a:1", "a@b", "%2e", "a b", "a#b", "con\\x"],
)  # fmt: skip
@pytest.mark.parametrize("what", ["adapter", "alias"])
def test_a_name_with_a_trick_in_it_is_refused(
    registry: Registry, refused: Callable[..., None], tmp_path: Path, what: str, name: str
) -> None:
    folder, names = written(tmp_path, "lora"), {"adapter": ("triage", name), "alias": (name, "a")}
    alias, adapter = names[what] if what == "alias" else ("prod", name)
    refused(
        lambda: registry.import_peft("local", adapter, folder, CARD, promote=alias),
        "is not a valid name",
        InvalidName,
    )
