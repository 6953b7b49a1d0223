"""Systems that read texts with MiniLM: ours over HTTP, sentence-transformers, onnxruntime.

All of them get texts and tokenize themselves. Refuses to know how they are compared.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from rootstock_adapters.base_card import BaseCard
from rootstock_adapters.head.op import pool
from rootstock_adapters.head.spec import HeadSpec
from rootstock_cli.shipped import find_base
from rootstock_registry import Lineage, NewPart, Registry
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoModel

from benchmarks.server import serving
from benchmarks.workload import SEED, Absent, WrongAnswer

if TYPE_CHECKING:
    from benchmarks.stage import Stage

NAME = "minilm"
HEADS = 16
LABELS = ("yes", "no", "unclear")
BATCH = 32  # sentence-transformers' own; it sorts by length first, and so does our onnxruntime

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    def embed(self, texts: Sequence[str]) -> Vectors:
        """[texts, D] fp32, mean pooled, of length 1."""
        ...


class Ours:
    """Our server on MiniLM in fp32, with HEADS heads, over HTTP."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def embed(self, texts: Sequence[str]) -> Vectors:
        # As the openai package asks.
        body = {"model": NAME, "input": list(texts), "encoding_format": "base64"}
        data = self._post("/v1/embeddings", body)
        vectors = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in data]
        return np.stack(vectors).astype(np.float32)

    def classify(self, texts: Sequence[str], heads: int) -> list[dict[str, Any]]:
        """Per text, the verdicts of the first `heads` heads."""
        models = [f"head{number}" for number in range(heads)]
        return self._post("/v1/classify", {"input": list(texts), "models": models})

    def _post(self, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        response = self._client.post(path, json=body)
        if response.status_code != 200:
            raise WrongAnswer(f"{path}: HTTP {response.status_code}: {response.text[:200]}")
        data: list[dict[str, Any]] = response.json()["data"]
        if len(data) != len(body["input"]):
            raise WrongAnswer(f"{path}: {len(data)} answers to {len(body['input'])} texts")
        return data


class SentenceTransformers:
    """sentence-transformers in this process. Raises Absent where it is not installed."""

    def __init__(self, path: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ModuleNotFoundError:
            raise Absent("sentence-transformers is not installed; make setup does it") from None
        self._model = SentenceTransformer(str(path), device="cpu")

    def embed(self, texts: Sequence[str]) -> Vectors:
        found = self._model.encode(
            list(texts), batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(found, dtype=np.float32)


class Onnx:
    """onnxruntime in this process, fp32, pooling in the graph. Raises Absent where it is not."""

    def __init__(self, path: Path, file: Path, threads: int) -> None:
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise Absent("onnxruntime is not installed; make setup does it") from None
        if not file.exists():
            _write_graph(path, file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._tokenizer.enable_padding()

    def embed(self, texts: Sequence[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
        found: list[Vectors] = []
        for start in range(0, len(order), BATCH):
            batch = [texts[number] for number in order[start : start + BATCH]]
            codes = self._tokenizer.encode_batch(batch)
            ids = np.array([code.ids for code in codes], dtype=np.int64)
            mask = np.array([code.attention_mask for code in codes], dtype=np.int64)
            feeds = {"input_ids": ids, "attention_mask": mask}
            found += list(self._session.run(None, feeds)[0])
        places = np.argsort(order)
        return np.stack(found)[places]


def ours(stage: Stage) -> Ours:
    """Our server on MiniLM, started when it is first asked for."""

    def start() -> Ours:
        url = stage.enter(_serving(stage))
        return Ours(stage.enter(httpx.Client(base_url=url, timeout=120)))

    return stage.once("minilm", start)


def sentence_transformers(stage: Stage) -> SentenceTransformers:
    return stage.once("sentence-transformers", lambda: SentenceTransformers(minilm()))


def onnx(stage: Stage) -> Onnx:
    file = stage.folder / "minilm.onnx"
    return stage.once("onnxruntime", lambda: Onnx(minilm(), file, stage.threads))


def minilm() -> Path:
    return find_base(NAME).path


def _serving(stage: Stage) -> contextlib.AbstractContextManager[str]:
    home = stage.folder / "home-minilm"
    if not home.exists():
        _publish_heads(home)
    env = {"ROOTSTOCK_LIMITS__ENGINE__THREADS": str(stage.threads)}
    return serving(home, f"{NAME}={minilm()}", ["--dtype", "float32"], env)


def _publish_heads(home: Path) -> None:
    registry, card = Registry(home), BaseCard.read(minilm(), NAME)
    registry.add_base(card)
    generator = torch.Generator().manual_seed(SEED)
    for number in range(HEADS):
        weight = torch.randn(len(LABELS), card.hidden_size, generator=generator)
        spec = HeadSpec(pooling="mean", normalize=True, labels=LABELS)
        part = NewPart(spec, save({"weight": weight, "bias": torch.zeros(len(LABELS))}))
        lineage = Lineage(method="head", seed=SEED)
        registry.publish("local", f"head{number}", card, [part], lineage=lineage, promote="prod")
    registry.close()


class _Pooled(nn.Module):
    """`input_ids`, `attention_mask` [B, L] int64 → [B, D] fp32."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        return pool(hidden, attention_mask, "mean", normalize=True)


def _write_graph(path: Path, file: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # its notes about packages we lack
    encoder = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    # No example dimension may be 1: the tracer would take it for a constant.
    ids = torch.ones(2, 8, dtype=torch.long)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=512)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Pooled(encoder).eval(),
            (ids, torch.ones_like(ids)),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes={"input_ids": dims, "attention_mask": dims},
            opset_version=20,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # None is for the old exporter only
    program.save(file, external_data=False)
