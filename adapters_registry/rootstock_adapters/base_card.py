"""The base as adapters see it: its fingerprint, its sizes and the shape of each of its linears.

Reads config.json and safetensors headers only; refuses to know torch and the weights' values.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rootstock_adapters.architectures import ARCHITECTURES, Architecture, Task, position_offset
from rootstock_adapters.errors import ArtifactError, BaseError
from rootstock_adapters.file import parse_object, read_header

Pooling = Literal["cls", "mean", "last"]

# Their output linear is their embedding unless the config says otherwise, as in transformers.
TIED_BY_DEFAULT = frozenset({"gemma2", "gemma3_text", "gpt2", "m2m_100", "opt", "t5"})
# Files that decide how a base behaves. A changed README does not make another base.
FINGERPRINTED = (".json", ".safetensors", ".txt", ".model", ".jinja")
# OPT's small models narrow what comes out; the first that is there is the size of hidden states.
_OUTPUT_SIZES = ("word_embed_proj_dim", "hidden_size", "n_embd", "dim", "d_model")
# Of an encoder-decoder: the decoder's, which are what a cache holds.
_LAYERS = (
    "decoder_layers", "num_decoder_layers", "num_hidden_layers", "n_layer", "n_layers",
    "num_layers",
)  # fmt: skip
NOT_LINEAR = (
    "embed", "wte", "wpe", "shared", "lm_head", "pooler", "cls.", "score", "classifier",
    "relative_attention_bias",
)  # fmt: skip
T5_CONTEXT = 512  # T5 has no limit of its own; this is the length that it was trained at
EMBEDDINGS = ("embed", "wte", "wpe", "shared")
OUTPUT = "lm_head"  # path of every decoder's output linear
# An encoder-decoder's one embedding, and the modules that look tokens up in it.
SHARED, SHARED_BY = "shared", ("encoder.embed_tokens", "decoder.embed_tokens")


class BaseCard(BaseModel):
    """A base's identity and the sizes that decide which adapters fit it.

    `linears` maps a module path inside the backbone (`layers.0.self_attn.q_proj`) to
    `(out_features, in_features)`, `parameters` the name of every tensor to its shape as it is
    stored; `tied` says that the output linear is the embedding; `pooling` and `normalize` say how
    its embedding is made. An encoder-decoder reads and writes up to `context_length` each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    model_type: str
    task: Task
    hidden_size: int
    layers: int
    vocab_size: int
    context_length: int
    pooling: Pooling
    normalize: bool
    linears: dict[str, tuple[int, int]]
    parameters: dict[str, tuple[int, ...]] = {}
    decoder_start: tuple[int, ...] = ()  # of text2text: what the decoder begins with
    tied: bool = False

    @classmethod
    def read(cls, path: Path, name: str) -> BaseCard:
        """Describe the Hugging Face folder at `path`.

        Raises BaseError where it is not one, or of an architecture that is not known here.
        """
        try:
            return cls._read(path, name)
        except (ArtifactError, ValidationError, OSError) as error:
            raise BaseError(f"{path} cannot be read as a base model: {error}") from error

    @classmethod
    def _read(cls, path: Path, name: str) -> BaseCard:
        config = _config(path)
        known = ARCHITECTURES[config["model_type"]]
        pooling, normalize = _pooling(path, known.task)
        shapes = _shapes(path)
        return cls(
            name=name,
            fingerprint=fingerprint(path),
            model_type=config["model_type"],
            task=known.task,
            hidden_size=_first(config, *_OUTPUT_SIZES),
            layers=_first(config, *_LAYERS),
            vocab_size=_first(config, "vocab_size"),
            context_length=_context_length(config),
            pooling=pooling,
            normalize=normalize,
            linears=_linears(shapes, known),
            parameters={n.removeprefix(known.prefix + "."): s for n, s in shapes.items()},
            decoder_start=_decoder_start(path, config) if known.task == "text2text" else (),
            tied=known.task != "encode" and _tied(config, shapes),
        )

    @cached_property
    def output(self) -> dict[str, tuple[int, int]]:
        """The linear that makes the logits, like an entry of `linears`; of an encoder, none."""
        if self.task == "encode":
            return {}
        stored = self.parameters.get("lm_head.weight", self.parameters.get("embed_out.weight"))
        # A tied one is not stored: it is the embedding.
        return {OUTPUT: (self.vocab_size, stored[1] if stored else self.hidden_size)}

    @cached_property
    def embeddings(self) -> dict[str, tuple[int, int]]:
        """Path of each module that looks something up to its `(rows, width)`."""
        found: dict[str, tuple[int, int]] = {}
        for name, shape in self.parameters.items():
            module = name.removesuffix(".weight")
            is_embedding = any(word in module for word in EMBEDDINGS) and len(shape) == 2
            # GPT-NeoX calls its output linear embed_out.
            if is_embedding and module not in (name, "embed_out", *self.output):
                looked_up = SHARED_BY if module == SHARED else (module,)
                found |= dict.fromkeys(looked_up, (shape[0], shape[1]))
        return found

    @property
    def translates(self) -> bool:
        """Whether a request says which language it is in and which it wants."""
        return ARCHITECTURES[self.model_type].translates

    @property
    def prefix(self) -> str:
        return ARCHITECTURES[self.model_type].prefix

    def module_path(self, name: str) -> str:
        """`name` as seen from the backbone: `model.layers.0.mlp` → `layers.0.mlp`."""
        return name.removeprefix(self.prefix + ".")


def fingerprint(path: Path) -> str:
    """sha256 over the names and digests of every file that decides how the base behaves."""
    total = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        relative = file.relative_to(path).as_posix()
        hidden = any(part.startswith(".") for part in relative.split("/"))
        if file.is_file() and file.suffix in FINGERPRINTED and not hidden:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{relative}\0{digest}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _config(path: Path) -> dict[str, Any]:
    file = path / "config.json"
    if not file.is_file():
        raise BaseError(f"{path} is not a base model: it has no config.json")
    try:
        config = parse_object(file.read_bytes())
    except ArtifactError as error:
        raise BaseError(f"{file} is not a model config: {error}") from error
    model_type = config.get("model_type")
    if "auto_map" in config:
        raise BaseError(f"{file} has auto_map: models that bring their own code are not served")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        text = config.get("text_config")
        part = f"; its text part is a {text.get('model_type')}" if isinstance(text, dict) else ""
        raise BaseError(
            f"{file}: model_type {model_type!r} is not served here (known: {known}){part}"
        )
    if config.get("quantization_config"):
        raise BaseError(
            f"{file} has a quantization_config: adapters and the parity probe need the weights as "
            "they were trained; serve the model that this one was quantized from"
        )
    return config


def _first(config: dict[str, Any], *names: str) -> int:
    for name in names:
        if type(config.get(name)) is int:
            return int(config[name])
    raise BaseError(f"config.json has no whole number as {' or '.join(names)}")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    files = weight_files(path)
    return {n: header.shape for file in files for n, header in read_header(file).items()}


def _linears(shapes: dict[str, tuple[int, ...]], known: Architecture) -> dict[str, tuple[int, int]]:
    linears: dict[str, tuple[int, int]] = {}
    prefix = known.prefix + "."
    # A task model's own layers stand beside its backbone; a bare backbone has no such prefix.
    start = prefix if any(name.startswith(prefix) for name in shapes) else ""
    for name, shape in shapes.items():
        module = name.removeprefix(start).removesuffix(".weight")
        is_linear = name.startswith(start) and name.endswith(".weight") and len(shape) == 2
        if is_linear and not any(word in module for word in NOT_LINEAR):
            rows, columns = shape
            linears[module] = (columns, rows) if known.transposed else (rows, columns)
    return linears


def _context_length(config: dict[str, Any]) -> int:
    if config["model_type"] == "t5" and type(config.get("n_positions")) is not int:
        return T5_CONTEXT
    return _first(config, "max_position_embeddings", "n_positions") - position_offset(config)


def _decoder_start(path: Path, config: dict[str, Any]) -> tuple[int, ...]:
    """What Hugging Face's `generate` begins with: the start token, then a forced first one."""
    file = path / "generation_config.json"
    settings = config | (parse_object(file.read_bytes()) if file.is_file() else {})
    start = settings.get("decoder_start_token_id")
    if type(start) is not int:
        raise BaseError(f"{path / 'config.json'} has no whole number as decoder_start_token_id")
    forced = settings.get("forced_bos_token_id")
    return (start, forced) if type(forced) is int else (start,)


def weight_files(path: Path) -> list[Path]:
    """The files that transformers reads, and not the same weights again in another's format.

    Mistral's folders hold a `consolidated.safetensors` besides, with names of its own.
    """
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise BaseError(
            f"{path} has neither {whole.name} nor {index.name} (pickled weights are not read)"
        )
    placed = parse_object(index.read_bytes()).get("weight_map")
    names = set(placed.values()) if isinstance(placed, dict) else set()
    # A name is a name in this folder: a path in it would lead elsewhere.
    if not names or not all(isinstance(n, str) and n == Path(n).name for n in names):
        raise BaseError(f"{index}: weight_map must name the folder's .safetensors files")
    return [path / name for name in sorted(names)]


def _tied(config: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> bool:
    stored = any(name in shapes for name in ("lm_head.weight", "embed_out.weight"))
    default = config["model_type"] in TIED_BY_DEFAULT
    return not stored or bool(config.get("tie_word_embeddings", default))


def _pooling(path: Path, task: Task) -> tuple[Pooling, bool]:
    """sentence-transformers' files say how embeddings are pooled; else the task decides."""
    file = path / "1_Pooling" / "config.json"
    if not file.is_file():
        return ("last", True) if task == "generate" else ("mean", True)
    modes = parse_object(file.read_bytes())
    normalize = any(path.glob("*_Normalize")) or "Normalize" in _modules(path)
    names: tuple[tuple[str, Pooling], ...] = (
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_lasttoken", "last"),
    )
    for flag, pooling in names:
        # One flag per mode until sentence-transformers 5, one field since.
        if modes.get(flag) or modes.get("pooling_mode") in (pooling, f"{pooling}token"):
            return pooling, normalize
    raise BaseError(f"{file}: only cls, mean and last-token pooling are served")


def _modules(path: Path) -> str:
    file = path / "modules.json"
    return file.read_text() if file.is_file() else ""
