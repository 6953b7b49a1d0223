"""A hostile request, and short ways to write one: a field, a message, an upload, a knock.

Which requests there were, advisories.py says.
"""

from __future__ import annotations

import base64
import json
import pickle
import tarfile
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from rootstock_wire.registry import PEFT_FILES
from safetensors.numpy import save

Fields = dict[str, Any]
COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
FILES, JOBS = "/v1/files", "/v1/fine_tuning/jobs"
JSON = {"content-type": "application/json"}
METADATA_SERVICE = "http://169.254.169.254/latest/meta-data/"
LOOP = "{% for a in range(10**9) %}{% for b in range(10**9) %}{{ b }}{% endfor %}{% endfor %}"
ESCAPE = "{{ ''.__class__.__mro__[1].__subclasses__() }}"


A, B = (f"base_model.model.model.layers.0.self_attn.q_proj.lora_{x}.weight" for x in "AB")
CONFIG = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4,
    "target_modules": ["q_proj"],
}  # fmt: skip
WEIGHTS = save({A: np.ones((2, 4), "f4"), B: np.ones((4, 2), "f4")})


class Attack(NamedTuple):
    id: str
    path: str
    body: Any = None  # of JSON; bytes go as they are
    status: int = 400
    param: str | None = None  # the field that the refusal names
    method: str = "POST"
    headers: Fields = JSON
    twin: Fields | None = None  # what a GenerateRequest says instead, where it has the field


class Opens:
    """What a pickle would do if anybody read it."""

    def __reduce__(self) -> Any:
        return (open, ("/tmp/rootstock-was-here", "w"))


PICKLE = pickle.dumps(Opens())
PICKLED = base64.b64encode(PICKLE).decode()


def asks(id: str, param: str, value: Any, twin: Fields | None = None) -> Attack:
    """One field of a completion, or more of them where the value is a table of `...`."""
    return Attack(id, COMPLETIONS, {"model": "toy", "prompt": "hi", param: value}, 400, param,
                  twin=twin)  # fmt: skip


def says(id: str, param: str, content: Any = "hi", **fields: Any) -> Attack:
    """A chat with this content."""
    messages = [{"role": "user", "content": content}]
    return Attack(id, CHAT, {"model": "toy", "messages": messages, **fields}, 400, param)


def knocks(id: str, path: str, body: Any = None, method: str = "POST") -> Attack:
    """A door that others have and we do not."""
    return Attack(id, path, body, 404, None, method)


def sends(id: str, name: str, data: bytes, *more: tuple[str, bytes]) -> Attack:
    """An upload of examples by the name of `name`, with `more` parts before it."""
    texts = [("purpose", None, b"fine-tune"), *((field, None, value) for field, value in more)]
    return _form(id, FILES, "file", [*texts, ("file", name, data)])


def offers(id: str, param: str, weights: bytes = WEIGHTS, **config: Any) -> Attack:
    """An adapter's two files."""
    text = json.dumps(CONFIG | config).encode()
    texts = [("name", None, b"voice"), ("base", None, b"toy")]
    files = [(file, file, data) for file, data in zip(PEFT_FILES, (text, weights), strict=True)]
    return _form(id, "/v1/adapters", param, [*texts, *files])


def _form(id: str, path: str, param: str, parts: list[tuple[str, str | None, bytes]]) -> Attack:
    body = b""
    for field, name, value in parts:
        place = f'form-data; name="{field}"' + (f'; filename="{name}"' if name else "")
        body += f"--x\r\nContent-Disposition: {place}\r\n\r\n".encode() + value + b"\r\n"
    kind = {"content-type": "multipart/form-data; boundary=x"}
    return Attack(id, path, body + b"--x--\r\n", 400, param, headers=kind)


def tarred() -> bytes:
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("escape")
        link.type, link.linkname = tarfile.SYMTYPE, "../" * 60 + "etc/passwd"
        archive.addfile(link)
    return file.getvalue()


def headed(header: str, data: bytes) -> bytes:
    """A safetensors file with this header."""
    return len(header).to_bytes(8, "little") + header.encode() + data


def tensor(name: str, shape: list[int], begin: int, end: int) -> str:
    return json.dumps({name: {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}})[1:-1]


def content(attack: Attack) -> bytes | None:
    if attack.body is None or isinstance(attack.body, bytes):
        return attack.body
    return json.dumps(attack.body).encode()
