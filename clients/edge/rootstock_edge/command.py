"""The `rootstock-edge` command: classify with a package, or show what is in one.

Refuses to know how a package is run; every refusal is one line and an exit code.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rootstock_edge.manifest import PARITY, Manifest, PackageError
from rootstock_edge.package import Package, Result

# Exit codes. argparse itself exits with 2 for a command line it cannot read.
OK, FAILED, INTERRUPTED = 0, 1, 130


def run() -> None:
    """The script's entry: exits the process."""
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Returns the exit code: 0, or 1 with one line on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.act(arguments)
        sys.stdout.flush()
    except (PackageError, ValueError) as error:
        print(f"rootstock-edge: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # The reader left (`| head`). Python flushes once more at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rootstock-edge", description="Classify on this device with an exported package."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    classify = commands.add_parser("classify", help="classify texts with every head of a package")
    classify.add_argument("dir", type=Path, help="the package's folder")
    classify.add_argument("text", nargs="+", help="a text to classify")
    classify.add_argument("--json", action="store_true", help="print JSON with every probability")
    classify.set_defaults(act=_classify)
    show = commands.add_parser("show", help="check a package's files and say what is in it")
    show.add_argument("dir", type=Path, help="the package's folder")
    show.set_defaults(act=_show)
    return parser


def _classify(arguments: argparse.Namespace) -> None:
    results = Package(arguments.dir).classify(arguments.text)
    answered = list(zip(arguments.text, results, strict=True))
    if arguments.json:
        print(json.dumps([_as_json(text, heads) for text, heads in answered], indent=2))
        return
    for text, heads in answered:
        verdicts = "  ".join(
            f"{name}={each.label} {each.score:.3f}" for name, each in heads.items()
        )
        print(f"{verdicts}  {text}")


def _as_json(text: str, heads: dict[str, Result]) -> dict[str, object]:
    return {"text": text, "heads": {name: dataclasses.asdict(each) for name, each in heads.items()}}


def _show(arguments: argparse.Namespace) -> None:
    manifest = Manifest.read(arguments.dir)
    data = {name: manifest.load(name) for name in manifest.files}
    print(f"base    {manifest.base_name}  {manifest.base_fingerprint}")
    print(f"reads   {manifest.max_length} tokens")
    for head in manifest.heads:
        print(f"head    {head.name}: {', '.join(head.labels)}  ({head.ref}  {head.digest})")
    for name, content in data.items():
        print(f"file    {name}  {len(content)} bytes  as exported")
    if PARITY in data:
        parity = json.loads(data[PARITY])
        print(
            f"parity  {parity['texts']} texts, probabilities within "
            f"{parity['max_difference']:.1e} of the server's ({parity['tolerance']:.0e} allowed)"
        )
