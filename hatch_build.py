"""Put the compiled CPU kernels into a wheel, where the build sees torch and a compiler.

Without them (build isolation hides torch) the wheel is pure Python and plain torch serves.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CpuKernels(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":  # `make setup` compiles in place, once torch is there
            return
        server = Path(self.root, "server")
        sys.path.insert(0, str(server))
        try:
            from rootstock_server.backends.cpu.build import BuildError, build
        except ImportError:
            self.app.display_warning(
                "no torch in this build: the wheel has no CPU kernels. To have them: "
                "pip install torch hatchling; pip wheel --no-build-isolation ."
            )
            return
        try:
            built = build()
        except BuildError as error:
            self.app.display_warning(f"the CPU kernels do not compile: {error}")
            return
        if built is None:
            self.app.display_warning("no C++ compiler found: the wheel has no CPU kernels")
            return
        build_data["force_include"][str(built)] = str(built.relative_to(server))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
