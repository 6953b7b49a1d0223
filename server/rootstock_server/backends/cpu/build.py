"""Compile the kernels of `src/` into one library of torch operators, beside this file.

Run by `make setup` and by the build of a wheel, never by a server. Refuses to know what they do.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

HERE = Path(__file__).parent
SOURCES = HERE / "src"
# Warnings about vectors in function arguments are about calls between libraries; ours are inlined.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fopenmp", "-Wall", "-Wno-psabi"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma"]
# Each in a file of its own: the rest must run on any machine. Never the building machine's own set.
INSTRUCTION_SETS = {
    "avx2.cpp": ["-mavx2", "-mfma"],
    "avx512.cpp": AVX512,
    "avx512_bf16.cpp": [*AVX512, "-mavx512bf16", "-mavx512vnni"],
}

LINES_SHOWN = 12  # of a compiler's complaints: the first says what is wrong


class BuildError(RuntimeError):
    """The kernels cannot be compiled. The message is the compiler's."""


def library() -> Path:
    """Where the library for these sources and this torch is, or would be.

    Both are in its name: one that was built for other sources or another torch is never loaded.
    """
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return HERE / f"kernels-{torch.__version__}-{digest.hexdigest()[:12]}.so"


def build() -> Path | None:
    """The library, compiled where it is not there yet; None where there is no compiler.

    Raises BuildError where there is one and it fails.
    """
    target = library()
    if target.exists():
        return target
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        built = _compile(compiler, Path(folder))
        for old in HERE.glob("kernels-*.so"):
            old.unlink(missing_ok=True)
        built.rename(target)
    return target


def _compile(compiler: str, folder: Path) -> Path:
    installed = Path(torch.__file__).parent
    include = installed / "include"
    includes = [f"-isystem{include}", f"-isystem{include / 'torch/csrc/api/include'}"]
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    sources = [s for s in SOURCES.glob("*.cpp") if on_x86 or s.name not in INSTRUCTION_SETS]

    def compile_one(source: Path) -> str:
        target = str(folder / f"{source.stem}.o")
        flags = [*FLAGS, *INSTRUCTION_SETS.get(source.name, []), *includes]
        _run([compiler, *flags, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor() as pool:
        objects = list(pool.map(compile_one, sources))
    built = folder / "kernels.so"
    # Linked without OpenMP: its symbols are found in the one that torch brought, and a second one
    # would bring a second set of threads.
    undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    libraries = [f"-L{installed / 'lib'}", "-ltorch_cpu", "-lc10"]
    _run([compiler, "-shared", *undefined, *objects, *libraries, "-o", str(built)])
    return built


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")


def main() -> None:
    try:
        built = build()
    except BuildError as error:
        first = "\n".join(str(error).splitlines()[:LINES_SHOWN])
        print(f"the CPU kernels do not compile; plain torch serves instead\n{first}")
        return
    if built is None:
        print("no C++ compiler found: the CPU kernels are left out, plain torch serves instead")


if __name__ == "__main__":
    main()
