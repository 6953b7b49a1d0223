"""Makes `rootstock_wire/v1/` from `rootstock_wire/proto/`: run this file after editing the proto.

It refuses to know any message: protoc reads them. Needs `grpcio-tools` (the `dev` extra); the
installed package needs neither it nor this file.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

WIRE = Path(__file__).parent / "rootstock_wire"
PROTOS = WIRE / "proto"
SOURCE = "rootstock/v1/inference.proto"


def generated() -> dict[str, bytes]:
    """File name → contents of everything protoc makes of the proto. Raises RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        options = [f"--{plugin}_out={folder}" for plugin in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"--proto_path={PROTOS}", *options, SOURCE]) != 0:
            raise RuntimeError(f"protoc refused {SOURCE}: see its message above")
        made = (Path(folder) / SOURCE).parent
        return {path.name: _at_home(path.read_bytes()) for path in sorted(made.iterdir())}


def _at_home(source: bytes) -> bytes:
    # protoc derives Python packages from the proto's path, but no package of ours may be called
    # `rootstock` (that name is someone else's on PyPI): the one import between the files moves.
    return source.replace(b"from rootstock.v1 import", b"from rootstock_wire.v1 import")


def main() -> int:
    for name, source in generated().items():
        (WIRE / "v1" / name).write_bytes(source)
        print(f"wrote rootstock_wire/v1/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
