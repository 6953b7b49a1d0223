"""The package folder: written beside its final place, checked against the server, then moved there.

Refuses to know what the graph contains and who asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rootstock_registry import Registry, Version
from tokenizers import Tokenizer

from rootstock_export.check import ParityReport, ServerAnswers, check
from rootstock_export.errors import ExportError, NotExportable, OutputExists
from rootstock_export.plan import Plan, plan

FORMAT = "rootstock.package/1"
TARGET = "onnx"
MODEL, TOKENIZER, MANIFEST, PARITY = "model.onnx", "tokenizer.json", "manifest.json", "parity.json"


def export(
    versions: Sequence[Version],
    base_path: Path,
    registry: Registry,
    out: Path,
    server_answers: ServerAnswers,
    *,
    texts: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> ParityReport:
    """Write `versions`, heads on the encoder in `base_path`, as one package in the folder `out`.

    `server_answers` gives, for each text, head name → label → probability; it is asked for the
    fixed probe texts and for `texts`. `progress` hears what begins, in words. `out` must be absent
    or empty, and stays so unless the package answers as the server does.
    Raises ExportError (NotExportable, ParityFailed, OutputExists), BaseError, ArtifactError, the
    registry's errors, and whatever `server_answers` raises.
    """
    say = progress or (lambda _: None)
    out = out.resolve()
    with _written_whole(out) as folder:
        say("Reading the heads")
        planned = plan(versions, base_path, registry)
        with _in_words(out):
            _write_tokenizer(base_path, folder / TOKENIZER)
        say("Turning the base and its heads into one graph")
        # Here, so that what can be refused is refused before torch is loaded.
        from rootstock_export.onnx_target import write_model

        with _in_words(out):
            write_model(planned, folder / MODEL)
            _write_manifest(planned, folder)
        say("Comparing the package with the server")
        report = check(folder, server_answers, texts)
        with _in_words(out):
            _write_json(folder / PARITY, report.as_json())
            _write_manifest(planned, folder)
    return report


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` at the end, or is removed if anything fails."""
    _refuse_in_use(out)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex}.partial"
    try:
        with _in_words(out):
            partial.mkdir(parents=True)
        yield partial
        _refuse_in_use(out)
        with _in_words(out):
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _in_words(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(f"cannot write {out}: {error.strerror or error}") from error


def _refuse_in_use(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise OutputExists(f"{out} exists already; name a new or an empty folder")


def _write_tokenizer(base_path: Path, file: Path) -> None:
    """The base's tokenizer without its own cut and padding: sentence-transformers' files cut at
    128 tokens, where the server reads the whole context.
    """
    source = base_path / "tokenizer.json"
    if not source.is_file():
        raise NotExportable(
            f"{base_path} has no tokenizer.json; write one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    tokenizer = Tokenizer.from_file(str(source))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(file))


def _write_manifest(planned: Plan, folder: Path) -> None:
    """Describe the heads and whatever files are in `folder` by now."""
    heads = [
        {
            "name": head.name,
            "ref": head.ref,
            "digest": head.digest,
            "labels": list(head.spec.labels),
            "output": head.output,
            "pooling": head.spec.pooling,
            "normalize": head.spec.normalize,
        }
        for head in planned.heads
    ]
    manifest = {
        "format": FORMAT,
        "target": TARGET,
        "base": {"name": planned.card.name, "fingerprint": planned.card.fingerprint},
        "heads": heads,
        "max_length": planned.card.context_length,
        "files": {file.name: _described(file) for file in _files(folder)},
    }
    _write_json(folder / MANIFEST, manifest)


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.name != MANIFEST)


def _described(file: Path) -> dict[str, str | int]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "size": file.stat().st_size}


def _write_json(file: Path, content: dict[str, object]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
