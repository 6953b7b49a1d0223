"""The bench command against a real server on a real socket: counted, written down, in words."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rootstock_adapters.base_card import BaseCard
from rootstock_cli.bench import command
from rootstock_cli.private_server import Running, private_server
from rootstock_cli.shipped import Source
from rootstock_registry import Registry

OPTIONS = ["--no-auth", "--no-sidecar", "--port", "0", "--grpc-port", "0"]
SMALL = ("--requests", "9", "--prompt-tokens", "5", "--new-tokens", "7")

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, tiny: Path, peft_folder: Path) -> Path:
    """A home with one base and three adapters on it."""
    home = tmp_path_factory.mktemp("home")
    registry = Registry(home)
    card = BaseCard.read(tiny, "tiny")
    for name in ("one", "two", "three"):
        registry.import_peft("local", name, peft_folder, card, promote="prod")
    registry.close()
    return home


@pytest.fixture(scope="module")
def server(filled: Path, tiny: Path) -> Iterator[Running]:
    with private_server(filled, [Source("tiny", tiny)], OPTIONS) as running:
        yield running


def test_a_closed_loop_counts_every_token_and_writes_table_json_and_plot(
    rootstock: Command, server: Running, tmp_path: Path
) -> None:
    ran = rootstock("bench", "--url", server.url, *SMALL, "--concurrency", "3", "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["requests"], found["errors"], found["tokens"]) == (9, 0, 9 * 7)
    assert found["tokens_per_s"] == pytest.approx(9 * 7 / found["seconds"])
    assert 0 < found["between_tokens_s"] <= found["between_tokens_p95_s"]
    assert found["title"].startswith("3 models on tiny")
    assert found["command"].startswith("rootstock bench --url")
    assert "tokens per second" in ran.stdout
    assert "| tokens per second |" in (tmp_path / "load.md").read_text()
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")


def test_an_open_loop_sends_at_its_rate(
    rootstock: Command, server: Running, tmp_path: Path
) -> None:
    rate = ("--rate", "50", "--adapters", "0")
    ran = rootstock("bench", "--url", server.url, *SMALL, *rate, "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "load.json").read_text())
    assert (found["models"], found["tokens"]) == (1, 9 * 7)
    assert "Poisson arrivals at 50 per second" in found["title"]


def test_it_can_start_a_server_of_its_own(rootstock: Command, tmp_path: Path, tiny: Path) -> None:
    base = ("--base", f"own={tiny}")
    ran = rootstock("bench", *base, *SMALL, "--out", tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "load.json").read_text())["tokens"] == 9 * 7


def test_answers_that_fail_are_counted_by_their_words(
    rootstock: Command, server: Running, tmp_path: Path
) -> None:
    # The context of the tiny base is 256 tokens.
    too_long = ("--requests", "3", "--prompt-tokens", "250", "--new-tokens", "20")
    ran = rootstock("bench", "--url", server.url, *too_long, "--out", tmp_path)
    assert ran.returncode == 1
    assert "none of 3 requests" in ran.stderr and "HTTP 400" in ran.stderr
    assert not list(tmp_path.glob("load.*"))


def test_a_dead_server_is_said_in_words(rootstock: Command, tmp_path: Path) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody else's meanwhile, but it does not listen
        port = deaf.getsockname()[1]
        ran = rootstock("bench", "--url", f"http://127.0.0.1:{port}", *SMALL, "--out", tmp_path)
    assert ran.returncode == 1
    assert f"no answer from http://127.0.0.1:{port}" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_more_adapters_than_there_are_is_refused_with_the_number(
    rootstock: Command, server: Running
) -> None:
    ran = rootstock("bench", "--url", server.url, "--adapters", "4")
    assert ran.returncode == 1
    assert "--adapters 4" in ran.stderr and "has 3 on tiny" in ran.stderr
    ran = rootstock("bench", "--url", server.url, "--model", "big")
    assert ran.returncode == 1
    assert "'big'" in ran.stderr and "tiny" in ran.stderr


def test_scenarios_outside_a_clone_are_refused(
    rootstock: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An installation has no benchmarks/ beside the package, wherever it is run.
    monkeypatch.setattr(command, "__file__", str(tmp_path / "a" / "b" / "c" / "command.py"))
    monkeypatch.chdir(tmp_path)
    ran = rootstock("bench", "--scenario", "short")
    assert ran.returncode == 1
    assert "clone" in ran.stderr
