"""The demo's device: the heads as a package, run in a process that cannot import torch.

Refuses to know the package's inside; compares its probabilities with the server's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from rootstock_cli.demo.stage import Stage, program
from rootstock_cli.demo.talking import HEADS, Verdicts
from rootstock_cli.demo.texts import SENTENCES
from rootstock_cli.exporting import answers_of, write_package
from rootstock_cli.failures import Refused
from rootstock_cli.options import LOCAL

if TYPE_CHECKING:
    from rootstock_registry import Version

TOLERANCE = 1e-4
# With None in its place, an import of torch fails: the device has none.
DEVICE = (
    "import sys; sys.modules['torch'] = None; "
    "from rootstock_edge.command import main; sys.exit(main(sys.argv[1:]))"
)


def run_on_device(stage: Stage, heads: list[Version], server: Verdicts) -> None:
    """Export both heads, classify the same sentences on the device, compare."""
    stage.chapter("The same sentences on a device without PyTorch")
    package = stage.home / "package"
    _export(stage, heads, package)
    device = _classify(package)
    table = Table(Column("sentence", no_wrap=True, max_width=40), *HEADS, "off by")
    for sentence, ours, theirs in zip(SENTENCES, device, server, strict=True):
        distance = max(
            abs(ours[head]["probs"][label] - share)
            for head in HEADS
            for label, share in theirs[head].items()
        )
        if distance > TOLERANCE:
            raise Refused(f"the device's probabilities are {distance:.1e} from the server's")
        verdicts = (f"{ours[head]['label']} {ours[head]['score']:.2f}" for head in HEADS)
        table.add_row(sentence, *verdicts, f"{distance:.1e}")
    stage.console.print(table)
    stage.say("off by: the largest difference of one probability between device and server.")
    command = f"{program('rootstock-edge')} classify {package} 'What a lovely place.'"
    stage.remember("classify on the device", command)


def _export(stage: Stage, heads: list[Version], package: Path) -> None:
    if _exported(package) == [head.digest for head in heads]:
        stage.say(f"{package} holds these very versions already: not exported again.")
        return
    shutil.rmtree(package, ignore_errors=True)
    from rootstock_client import Client

    with Client(stage.server.url, stage.keys[LOCAL]) as client:
        ask = answers_of(client, heads)
        report = write_package(stage.registry, heads, stage.sources["minilm"], package, ask)
    size = sum(file.stat().st_size for file in package.iterdir())
    stage.say(
        f"{package}: {size / 1e6:.0f} MB; on {report.texts} texts within "
        f"{report.max_difference:.1e} of the server's probabilities"
    )


def _exported(package: Path) -> list[str]:
    """The digests of the heads in the package; none where it cannot be read."""
    from rootstock_edge.manifest import Manifest, PackageError

    try:
        return [head.digest for head in Manifest.read(package).heads]
    except PackageError:
        return []


def _classify(package: Path) -> list[dict[str, Any]]:
    """For each sentence: head → label, score, probs, as the device's own process says."""
    command = [sys.executable, "-c", DEVICE, "classify", str(package), "--json", *SENTENCES]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise Refused(f"the device could not classify: {ran.stderr.strip()}")
    return [row["heads"] for row in json.loads(ran.stdout)]
