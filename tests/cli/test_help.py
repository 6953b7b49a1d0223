"""Every command says what it takes, and saying so costs nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from subprocess import CompletedProcess

import pytest

Command = Callable[..., CompletedProcess[str]]


FLAGS = {
    "serve": "--base --home --host --port --grpc-port --dtype --require-signature --no-auth "
    "--no-sidecar",
    "sidecar": "--home",
    "import": "DIR --as --base --promote --home --tenant --json",
    "promote": "NAME:VERSION --to --require --public-key --home --json",
    "rollback": "NAME[@ALIAS] --home --tenant --json",
    "alias list": "NAME --limit --after --tenant --json",
    "alias set": "NAME ALIAS VERSION --home --json",
    "alias delete": "NAME ALIAS --force --json",
    "alias history": "NAME ALIAS --json",
    "yank": "NAME:VERSION --reason --undo --json",
    "delete": "NAME[:VERSION] --force --json",
    "gc": "--grace --dry-run --home --json",
    "generate-key-pair": "--out",
    "sign": "--key --home --tenant --json",
    "verify": "--public-key --home --tenant --json",
    "audit": "--tenant --object --limit --after --json",
    "audit verify": "--head --home --json",
    "list": "--limit --after --home --tenant --json",
    "versions": "NAME --limit --after --json",
    "show": "NAME[:VERSION|@ALIAS] --home --json",
    "train": "--method --base --data --as --text-column --label-column --promote --seed --set "
    "--detach",
    "pretrain": "--data --out --params",
    "jobs list": "--limit --home --tenant --json",
    "jobs events": "JOB --follow --home --tenant --json",
    "tenant create": "NAME --home",
    "key create": "--tenant --role --expires --home",
    "key list": "--tenant --home --json",
    "key revoke": "KEY --tenant --home",
    "route set": "TASK --fallback --home --tenant",
    "export": "NAME --target --out --home",
    "ask": "PROMPT MODEL --url --max-tokens --temperature",
    "bench": "--url --base --model --adapters --concurrency --rate --requests --zipf "
    "--prompt-tokens --new-tokens --seed --scenario --shape --rounds --out",
    "demo": "--once --home",
}


@pytest.mark.parametrize("command", FLAGS)
def test_help_names_every_flag(rootstock: Command, command: str) -> None:
    ran = rootstock(*command.split(), "--help")
    assert ran.returncode == 0
    missing = [flag for flag in FLAGS[command].split() if flag not in ran.stdout]
    assert not missing


def test_help_lists_every_command(rootstock: Command) -> None:
    ran = rootstock("--help")
    assert ran.returncode == 0
    assert all(command.split()[0] in ran.stdout for command in FLAGS)


@pytest.mark.parametrize("arguments", [["serv"], ["list", "--jsno"], ["train"], ["key", "make"]])
def test_wrong_usage_exits_2(rootstock: Command, arguments: list[str]) -> None:
    ran = rootstock(*arguments)
    assert ran.returncode == 2
    assert "Usage" in ran.stderr


def test_help_imports_nothing_slow() -> None:
    """Torch alone takes seconds; the server's and the registry's libraries a good part of one."""
    slow = ["torch", "transformers", "sqlalchemy", "fastapi", "grpc", "httpx", "numpy"]
    script = (
        "import sys\n"
        "from rootstock_cli.main import app\n"
        "sys.argv = ['rootstock', '--help']\n"
        "try: app()\n"
        "finally: print('LOADED', [name for name in " + repr(slow) + " if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "LOADED []" in ran.stdout
