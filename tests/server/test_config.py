"""The configuration: complete, frozen, and clear about what is wrong with it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from rootstock_server import config
from rootstock_server.config import ConfigError, load

BASES = {"bases": ["demo=/tmp/somewhere"]}


def test_defaults_are_filled_in_and_auto_values_are_decided() -> None:
    made = load(BASES, {})
    assert (made.host, made.port, made.grpc_port, made.dtype) == ("127.0.0.1", 8000, 8001, "auto")
    assert made.limits.engine.threads == len(os.sched_getaffinity(0))
    assert made.home == Path.home() / ".rootstock"


def test_flags_win_over_environment_over_defaults() -> None:
    env = {"ROOTSTOCK_PORT": "9000", "ROOTSTOCK_HOST": "::1", "ROOTSTOCK_BASES": "a=/x,b=/y"}
    made = load({"port": 7000, "host": None}, env)
    assert (made.port, made.host) == (7000, "::1")
    assert [source.name for source in made.bases] == ["a", "b"]


def test_nested_limits_come_from_double_underscores() -> None:
    made = load(BASES, {"ROOTSTOCK_LIMITS__ENGINE__MAX_RUNNING": "3"})
    assert made.limits.engine.max_running == 3


def test_a_base_without_a_name_is_called_after_its_folder() -> None:
    made = load({"bases": ["/models/Small-Llama/"]}, {})
    assert made.bases[0].name == "small-llama"


@pytest.mark.parametrize(
    ("values", "env", "message"),
    [
        ({"prot": 1}, {}, "prot: unknown key; did you mean port?"),
        ({"limits": {"engin": {}}}, {}, "limits.engin: unknown key; did you mean engine?"),
        (
            {"limits": {"engine": {"max_runing": 1}}},
            {},
            "limits.engine.max_runing: unknown key; did you mean max_running?",
        ),
        ({}, {"ROOTSTOCK_GRPC_PROT": "1"}, "grpc_prot: unknown key; did you mean grpc_port?"),
        ({"port": 70000}, {}, "port: Input should be less than or equal to 65535"),
        ({"port": 8000, "grpc_port": 8000}, {}, "grpc_port: must differ from port"),
        ({"bases": ["a=/x", "a=/y"]}, {}, "two bases have the same name"),
        ({"bases": []}, {}, "bases: "),
        ({"host": "0.0.0.0", "no_auth": True}, {}, "no_auth: only allowed on the loopback"),
        ({"dtype": "float8"}, {}, "dtype: "),
        ({"blobs": "/srv/blobs"}, {}, "blobs: write s3://BUCKET/PREFIX"),
    ],
)
def test_a_faulty_value_is_named_with_its_fix(values: dict, env: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load({**BASES, **values}, env)


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load({**BASES, "port": -1, "grpc_port": "x", "hots": "h"}, {})
    assert len(str(caught.value).splitlines()) == 3


def test_no_auth_is_allowed_on_every_spelling_of_loopback() -> None:
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert load({**BASES, "host": host, "no_auth": True}, {}).no_auth


def test_clients_variables_are_not_the_servers() -> None:
    load(BASES, {"ROOTSTOCK_API_KEY": "rsk_x", "ROOTSTOCK_URL": "http://x"})


def test_the_configuration_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValidationError):
        load(BASES, {}).port = 1  # type: ignore[misc]


def test_one_file_of_the_server_reads_the_environment() -> None:
    package = Path(config.__file__).parent
    readers = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"os\.environ|os\.getenv|environ\[", file.read_text())
    }
    # The supervisor hands its own environment on to the engine, unread.
    assert readers - {"engine/supervisor.py"} == {"config.py"}
