"""The committed protobuf code is what the committed proto makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

CLIENTS = Path(__file__).parents[2] / "clients" / "python"


def test_regenerating_the_protobuf_code_gives_the_committed_bytes() -> None:
    spec = importlib.util.spec_from_file_location("generate_protos", CLIENTS / "generate_protos.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    made = script.generated()

    assert sorted(made) == ["inference_pb2.py", "inference_pb2.pyi", "inference_pb2_grpc.py"]
    for name, source in made.items():
        committed = (CLIENTS / "rootstock_wire" / "v1" / name).read_bytes()
        assert source == committed, f"{name}: run `python clients/python/generate_protos.py`"
