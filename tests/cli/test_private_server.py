"""A server of one's own: it answers while it is needed, says why it cannot start, and is gone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_cli.failures import Refused
from rootstock_cli.private_server import Running, private_server
from rootstock_cli.shipped import Source
from rootstock_registry import Registry

OPTIONS = ["--no-auth", "--no-sidecar"]

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny: Path, peft_folder: Path
) -> Iterator[Running]:
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home)
    card = BaseCard.read(tiny, "tiny")
    registry.import_peft("local", "triage", peft_folder, card, promote="prod")
    registry.close()
    with private_server(home, [Source("tiny", tiny)], OPTIONS) as running:
        yield running
    with pytest.raises(ProcessLookupError):
        os.kill(running.process.pid, 0)


def test_ask_shows_each_model_with_its_digest(rootstock: Command, server: Running) -> None:
    ran = rootstock("ask", "hello", "tiny", "triage", "--url", server.url, "--max-tokens", "8")
    assert ran.returncode == 0, ran.stderr
    assert "tiny" in ran.stdout and "triage" in ran.stdout
    assert ran.stdout.count("sha256:") == 2


def test_ask_shows_a_refusal_beside_the_answers_and_exits_1(
    rootstock: Command, server: Running
) -> None:
    ran = rootstock("ask", "hello", "tiny", "nobody", "--url", server.url, "--max-tokens", "4")
    assert ran.returncode == 1
    assert "does not exist" in ran.stdout and "sha256:" in ran.stdout


def test_ask_without_a_server_says_where_it_looked(rootstock: Command) -> None:
    ran = rootstock("ask", "hello", "tiny", "--url", "http://127.0.0.1:9")
    assert ran.returncode == 1
    assert "no answer from http://127.0.0.1:9" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source = Source("empty", tmp_path / "empty")
    with (
        pytest.raises(Refused, match=r"did not start.*config\.json"),
        private_server(tmp_path / "home", [source], OPTIONS),
    ):
        pass


def test_a_failure_inside_the_context_ends_the_server(tmp_path: Path, tiny: Path) -> None:
    with (
        pytest.raises(ValueError, match="mine"),
        private_server(tmp_path / "home", [Source("tiny", tiny)], OPTIONS) as running,
    ):
        raise ValueError("mine")
    assert running.process.poll() is not None


def test_an_export_refuses_what_it_cannot_find(
    rootstock: Command, tiny: Path, peft_folder: Path, tmp_path: Path
) -> None:
    arguments = ("export", "triage", "--target", "onnx", "--out", tmp_path / "package")
    assert "triage" in rootstock(*arguments).stderr
    rootstock("import", peft_folder, "--as", "triage", "--base", tiny, "--promote", "prod")
    ran = rootstock(*arguments)
    assert ran.returncode == 1
    assert "--base" in ran.stderr
    assert rootstock("export", "triage", "--target", "tflite", "--out", tmp_path).returncode == 2
