"""What comes in by the command goes out by it; what is hostile is refused in one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from peft import PeftConfig
from safetensors.numpy import load_file, save_file

Command = Callable[..., CompletedProcess[str]]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def edited(folder: Path, **changes: Any) -> None:
    file = folder / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_peft_folder_comes_out_as_it_went_in(
    rootstock: Command, tiny: Path, peft_folder: Path, tmp_path: Path
) -> None:
    args = ("import", peft_folder, "--as", "triage", "--base", tiny, "--promote", "prod")
    assert rootstock(*args).returncode == 0
    ran = rootstock("export", "triage", "--target", "peft", "--out", tmp_path / "out")
    assert ran.returncode == 0, ran.stderr
    assert "PeftModel.from_pretrained" in ran.stdout
    assert "exported  peft, 2" in rootstock("show", "triage").stdout
    shown = json.loads(rootstock("show", "triage", "--json").stdout)
    assert (shown["exports"], shown["dataset"]) == (["peft"], None)
    assert "export local/triage:1  target=peft" in rootstock("audit", "--limit", "1").stdout
    before, after = load_file(peft_folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    ours, theirs = (PeftConfig.from_pretrained(str(f)) for f in (tmp_path / "out", peft_folder))
    assert (ours.r, ours.lora_alpha, ours.task_type) == (
        theirs.r,
        theirs.lora_alpha,
        theirs.task_type,
    )
    again = rootstock("export", "triage", "--target", "peft", "--out", tmp_path / "out")
    assert again.returncode == 1 and "is not empty" in again.stderr
    both = rootstock("export", "triage", "triage", "--target", "peft", "--out", tmp_path / "b")
    assert both.returncode == 1 and "holds one version" in both.stderr


def test_what_peft_has_no_form_for_is_said(rootstock: Command, tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "asker.json"
    file.write_text('{"template": "Q: {input}"}')
    args = ("import", file, "--as", "asker", "--base", tiny, "--promote", "prod")
    assert rootstock(*args).returncode == 0
    ran = rootstock("export", "asker", "--target", "peft", "--out", tmp_path / "out")
    assert ran.returncode == 1 and "a prompt has no weights" in ran.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapterhub_folder_is_told_by_its_config(
    rootstock: Command, tiny: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    config = {"mh_adapter": False, "output_adapter": True, "non_linearity": "relu"}
    text = {"config": config, "model_type": "bert", "name": "task", "hidden_size": 16}
    (folder / CONFIG).write_text(json.dumps(text))
    save_file({"x": np.ones(1, np.float32)}, folder / "adapter.safetensors")
    ran = rootstock("import", folder, "--as", "a", "--base", tiny)
    assert ran.returncode == 1 and "model_type 'bert'" in ran.stderr


HOSTILE: dict[str, Callable[[Path], Any]] = {
    "cut": lambda f: os.truncate(f / WEIGHTS, 100),
    "a pickle": lambda f: (f / WEIGHTS).write_bytes(pickle.dumps({"a": 1})),
    "a link": lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).symlink_to("/dev/zero")),
    "a fifo": lambda f: ((f / WEIGHTS).unlink(), os.mkfifo(f / WEIGHTS)),
    "code": lambda f: edited(f, auto_mapping={"base_model_class": "X", "parent_library": "os"}),
    "remote code": lambda f: edited(f, trust_remote_code=True),
    "an address": lambda f: edited(f, base_model_name_or_path="https://example.org"),
    "a bomb": lambda f: edited(f, rank_pattern={"(a+)+$": 2}),
    "a colour": lambda f: edited(f, **{"\x1b[31mred": True}),
    "no JSON": lambda f: (f / CONFIG).write_text("{" * 100_000),
    "empty": lambda f: (f / CONFIG).write_text(""),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_folder_is_refused_in_one_line(
    rootstock: Command, tiny: Path, peft_folder: Path, tmp_path: Path, home: Path, what: str
) -> None:
    folder = shutil.copytree(peft_folder, tmp_path / "hostile")
    HOSTILE[what](folder)
    ran = rootstock("import", folder, "--as", "a", "--base", tiny, "--promote", "prod")
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.startswith("rootstock: adapter_") and ran.stderr.strip().isprintable()
    assert json.loads(rootstock("list", "--json").stdout)["adapters"] == []
    assert [file for file in (home / "blobs").rglob("*") if file.is_file()] == []
