"""Failures come in words, on stderr, with the right exit code; never as a traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from rootstock_cli import listing
from rootstock_cli.failures import TREES, in_words

Command = Callable[..., CompletedProcess[str]]


def test_every_named_tree_exists() -> None:
    import importlib

    for module, name in TREES:
        assert issubclass(getattr(importlib.import_module(module), name), Exception)


def test_a_fault_of_ours_keeps_its_details_in_a_file(
    rootstock: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(home: Path) -> None:
        raise ZeroDivisionError("oh")

    # The only way to a fault of ours is to make one.
    monkeypatch.setattr(listing, "open_registry", break_down)
    ran = rootstock("list")
    assert ran.returncode == 1
    assert "Traceback" not in ran.stderr
    file = Path(ran.stderr.split()[-1])
    assert "break_down" in file.read_text()
    file.unlink()


def test_ctrl_c_exits_130_without_a_word(
    rootstock: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(home: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "open_registry", interrupt)
    ran = rootstock("list")
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "", "")


def test_a_missing_package_names_the_extra() -> None:
    words = in_words(ModuleNotFoundError("No module named 'onnx'", name="onnx"))
    assert "onnx" in words and "rootstock-server[demo]" in words


def test_a_home_that_cannot_be_made_is_named(rootstock: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = rootstock("list", "--home", tmp_path / "file" / "home")
    assert ran.returncode == 1
    assert "file" in ran.stderr and "Traceback" not in ran.stderr


def test_bad_settings_of_the_server_are_refused_before_it_starts(
    rootstock: Command, tiny: Path
) -> None:
    ran = rootstock("serve", "--base", tiny, "--no-auth", "--host", "0.0.0.0")
    assert ran.returncode == 1
    assert "no_auth" in ran.stderr
    ran = rootstock("serve")
    assert ran.returncode == 1
    assert "bases" in ran.stderr
    ran = rootstock("serve", "--base", tiny, "--port", "70000")
    assert ran.returncode == 1
    assert "port" in ran.stderr


def test_bad_examples_are_refused_in_the_trainers_words(
    rootstock: Command, tiny: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    arguments = ("train", "--method", "head", "--base", tiny, "--data", data, "--as", "mood")
    assert rootstock(*arguments).returncode == 2
    data.write_text("text,label\nhello,\n")
    ran = rootstock(*arguments)
    assert ran.returncode == 1
    assert "label is empty" in ran.stderr and "Traceback" not in ran.stderr


def test_hyperparameters_are_numbers_that_the_method_knows(
    rootstock: Command, tiny: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    data.write_text("text,label\nhello,a\n")
    arguments = ("train", "--method", "head", "--base", tiny, "--data", data, "--as", "mood")
    wrong = rootstock(*arguments, "--set", "c=much")
    assert wrong.returncode == 1
    assert "hyperparameters.c: " in wrong.stderr
    assert rootstock(*arguments, "--set", "c").returncode == 2
    unknown = rootstock(*arguments, "--set", "rank=8")
    assert unknown.returncode == 1
    assert "rank" in unknown.stderr and "known: c" in unknown.stderr


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Twenty texts of two labels."""
    data = tmp_path / "rows.csv"
    data.write_text("text,label\n" + "".join(f"word {n},{'ab'[n % 2]}\n" for n in range(20)))
    return data


def test_a_detached_job_waits_for_the_sidecar(
    rootstock: Command, home: Path, tiny: Path, labelled: Path
) -> None:
    from rootstock_registry import Registry

    ran = rootstock(
        "train", "--method", "head", "--base", tiny, "--data", labelled, "--as", "mood", "--detach",
        "--priority", "5",
    )  # fmt: skip
    job = Registry(home).job(ran.stdout.strip())
    assert (job.state, job.priority) == ("queued", 5)
    assert job.spec["data"] == str(labelled)


def test_a_version_that_falls_short_of_its_gate_is_kept_and_said_with_its_figure(
    rootstock: Command, home: Path, tiny: Path, labelled: Path
) -> None:
    from rootstock_registry import Registry

    ran = rootstock(
        "train", "--method", "head", "--base", tiny, "--data", labelled, "--as", "mood",
        "--promote", "prod", "--require", "accuracy>=2",
    )  # fmt: skip
    assert ran.returncode == 1
    assert "mood:1 may not be promoted: need accuracy >= 2, have" in ran.stderr
    registry = Registry(home)
    assert registry.resolve("local", "mood:1").aliases == ()
    registry.close()
