"""The readers that take a stranger's bytes, the sound inputs they begin from, and what must hold.

Each raises its own room's errors and nothing else, and leaves nothing behind of what it refuses.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rootstock_adapters.base_card import BaseCard
from rootstock_registry import Registry, Version
from rootstock_registry.errors import RegistryError
from rootstock_server.api.files import check
from rootstock_server.errors import BadRequest
from rootstock_trainer.data import open_rows
from rootstock_trainer.errors import BadData, BadSpec
from rootstock_trainer.spec import TrainSpec
from safetensors import deserialize
from safetensors.numpy import load, save

from tests.fuzz.mutations import mutated, mutated_json
from tests.registry.folders import CARD, CONFIG, ENCODER, FOLDERS, WEIGHTS

LONGEST_MESSAGE = 8000


class Input(NamedTuple):
    kind: str  # of a folder, or a file's suffix
    data: bytes


class Refused(Exception):
    """The reader said no, in its own words."""


class Reader(ABC):
    seeds: list[Input]

    def input(self, chance: Random) -> Input:
        seed = chance.choice(self.seeds)
        return Input(seed.kind, self.mutate(seed, chance))

    def mutate(self, seed: Input, chance: Random) -> bytes:
        return mutated(seed.data, chance, [other.data for other in self.seeds])

    @abstractmethod
    def read(self, given: Input) -> None:
        """Raises Refused; whatever else is raised is a finding."""

    @abstractmethod
    def left_behind(self) -> list[str]:
        """What is stored and belongs to nothing that was accepted."""

    def close(self) -> None:
        """Give back what is open."""
        return


class Folders(Reader):
    """An adapter's folder, of which one file is the input, imported into a registry."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "offered"
        self._folder.mkdir()
        # Homes apart: the two bases have one name.
        self._registries = {kind: Registry(folder / kind) for kind in FOLDERS}

    def close(self) -> None:
        for registry in self._registries.values():
            registry.close()

    def take(self, kind: str, config: bytes, weights: bytes) -> None:
        for file in self._folder.iterdir():
            file.unlink()
        (self._folder / CONFIG).write_bytes(config)
        (self._folder / self._weights_of(kind)).write_bytes(weights)
        registry = self._registries[kind]
        take = registry.import_adapterhub if kind == "hub" else registry.import_peft
        try:
            version = take("local", "triage", self._folder, self._card(kind))
        except RegistryError as error:
            assert error.message.isprintable() and len(error.message) < LONGEST_MESSAGE
            raise Refused(error.message) from error
        self._check(registry, version)

    def _check(self, registry: Registry, version: Version) -> None:
        """What is accepted can be read by the library, and is made of numbers."""
        for part in registry.manifest(version.digest).parts:
            data = registry.blobs.get(part.blob)
            names = [name for name, _ in deserialize(data)]
            assert len(names) == len(set(names))

    @staticmethod
    def _weights_of(kind: str) -> str:
        return "adapter.safetensors" if kind == "hub" else WEIGHTS

    @staticmethod
    def _card(kind: str) -> BaseCard:
        return ENCODER if kind == "hub" else CARD

    def left_behind(self) -> list[str]:
        strays = []
        for registry in self._registries.values():
            named = set()
            for version in registry.versions("local", "triage"):
                parts = registry.manifest(version.digest).parts
                named |= {version.digest, *(part.blob for part in parts)}
            stored = {blob.digest for blob in registry.blobs.entries()}
            strays += sorted(stored ^ named)
        return strays


class Artifacts(Folders):
    """The weights of a folder, under a sound config."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seeds = [Input(kind, weights) for kind, (_, weights) in FOLDERS.items()]
        halves = {n: t.astype(np.float16) for n, t in load(FOLDERS["lora"][1]).items()}
        self.seeds += [Input("lora", save(halves)), Input("lora", save(halves, {"format": "pt"}))]

    def mutate(self, seed: Input, chance: Random) -> bytes:
        """Half of them with a length before the header that fits it again."""
        if chance.random() < 0.5:
            return super().mutate(seed, chance)
        size = 8 + int.from_bytes(seed.data[:8], "little")
        header, data = seed.data[8:size], seed.data[size:]
        header = mutated(header, chance, [other.data[8:] for other in self.seeds])
        return len(header).to_bytes(8, "little") + header + data

    def read(self, given: Input) -> None:
        self.take(given.kind, json.dumps(FOLDERS[given.kind][0]).encode(), given.data)


# All that PEFT writes beside what matters, as it writes it.
NEUTRAL = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "tiny",
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None,
    "loftq_config": {}, "lora_dropout": 0.0, "megatron_config": None, "modules_to_save": None,
    "rank_pattern": {"q_proj": 2}, "revision": None, "use_dora": False, "use_rslora": True,
}  # fmt: skip
STRANGE = [
    "", "auto_map", "trust_remote_code", "tokenizer_kwargs", "megatron_core", "runtime_config",
    "chat_template", "leave_out", "scaling", "r", "lora_alpha", "num_layers", "token_dim",
    "encoder_hidden_size", "__class__", "\ud800", "a\nb", "x" * 2000, "exclude_modules",
    "trainable_token_indices", "lora_bias", "eva_config", "corda_config", "peft_version", "version",
]  # fmt: skip


class Configs(Folders):
    """The config of a folder, beside sound weights."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        configs = [(kind, config) for kind, (config, _) in FOLDERS.items()]
        configs += [("lora", FOLDERS["lora"][0] | NEUTRAL)]
        self.seeds = [Input(kind, json.dumps(config).encode()) for kind, config in configs]
        self._fields = sorted({*STRANGE, *(name for _, config in configs for name in config)})

    def mutate(self, seed: Input, chance: Random) -> bytes:
        if chance.random() < 0.4:
            return super().mutate(seed, chance)
        return mutated_json(seed.data, chance, self._fields)

    def read(self, given: Input) -> None:
        self.take(given.kind, given.data, FOLDERS[given.kind][1])


LABELLED = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(8)]
CHATS = [
    {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
    for n in range(6)
]
COMPLETIONS = [{"prompt": f"p{n}", "completion": "c"} for n in range(6)]
TAGGED = [{"text": ["a", f"b{n}"], "label": ["O", "X"]} for n in range(6)]


def lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet(table: pa.Table, **options: object) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream, **options)
    return stream.getvalue()


def table(rows: list[dict[str, object]]) -> bytes:
    """CSV, with quotes around all."""
    names = list(rows[0])
    written = [names, *([str(row[name]) for name in names] for row in rows)]
    return "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in written).encode()


class Datasets(Reader):
    """A file of examples: what the door checks of an upload, and what a job reads of it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "data"
        self._folder.mkdir()
        self.seeds = [Input(".jsonl", lines(x)) for x in (LABELLED, CHATS, COMPLETIONS, TAGGED)]
        self.seeds += [Input(".csv", table(x)) for x in (LABELLED, COMPLETIONS)]
        odd = pa.table({
            "text": [f"t{n}" for n in range(8)], "label": list("ab" * 4),
            "when": pa.array(range(8), pa.timestamp("us")), "raw": pa.array([b"\xff"] * 8),
            "price": pa.array([1] * 8).cast(pa.decimal128(30, 2)),
        })  # fmt: skip
        self.seeds += [
            Input(".parquet", parquet(pa.Table.from_pylist(LABELLED))),
            Input(".parquet", parquet(pa.Table.from_pylist(CHATS), compression="zstd")),
            Input(".parquet", parquet(odd, compression="none", use_dictionary=False)),
        ]

    def read(self, given: Input) -> None:
        file = self._folder / f"rows{given.kind}"
        file.write_bytes(given.data)
        told = []
        try:
            check(file.name, given.data)
        except BadRequest as error:
            told.append(error.message)
        spec = {"base": "b", "base_path": "/b", "name": "n", "data": str(file)}
        for method in ("lora", "head"):
            try:
                self._train(TrainSpec.parse(spec | {"method": method}))
            except (BadData, BadSpec) as error:
                told.append(error.message)
        for message in told:
            assert len(message) < LONGEST_MESSAGE
            assert all(line.isprintable() for line in message.split("\n"))
        if len(told) == 3:
            raise Refused(told[0])

    @staticmethod
    def _train(spec: TrainSpec) -> None:
        """What is accepted reads the same a second time, and can be written down."""
        rows = open_rows(spec)
        again = list(rows.data.rows())
        assert len(again) == len(rows.data.keys)
        assert sorted([*rows.train, *rows.held_out]) == list(range(len(again)))
        for row in again:
            json.dumps(row.fields, ensure_ascii=False).encode()

    def left_behind(self) -> list[str]:
        return sorted(f.name for f in self._folder.iterdir() if f.stem != "rows")


READERS = {"artifacts": Artifacts, "configs": Configs, "datasets": Datasets}
