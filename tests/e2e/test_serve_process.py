"""The server as a process: start, leave early, lose an engine, drain, stop."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from rootstock_registry import Registry

LONG = {"model": "tiny", "prompt": "hello", "max_tokens": 1900, "ignore_eos": True, "stream": True}
SHORT = LONG | {"max_tokens": 300}
DONE = "data: [DONE]"
WAIT_S = 120.0  # at most: whoever waits goes on when it has happened
get, post, stream = (
    functools.partial(each, timeout=WAIT_S) for each in (httpx.get, httpx.post, httpx.stream)
)


def until(condition: Callable[[], object], seconds: float = WAIT_S) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gauge(url: str, name: str) -> float:
    text = get(f"{url}/metrics").text
    return sum(float(x) for x in re.findall(rf"^{re.escape(name)}\{{.*\}} (\S+)$", text, re.M))


def children(process: subprocess.Popen[bytes], module: str) -> list[int]:
    """The process ids of the server's children that run `module`."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in pids if module in _command_line(pid)]


def _command_line(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return ""


def engines_of(process: subprocess.Popen[bytes]) -> list[int]:
    return children(process, "rootstock_server.engine.worker")


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def start(start_server, home: Path, tiny: dict[str, Path]):
    """Start a server over one base: an engine's process takes seconds to import torch."""

    def started(**settings: object):
        return start_server(home, bases=[f"tiny={tiny['tiny']}"], **settings)

    return started


def test_it_says_where_it_is_asks_for_keys_and_leaves_nothing_behind(home, start) -> None:
    registry = Registry(home)
    registry.create_tenant("acme")
    _, secret = registry.create_key("acme", "caller")
    registry.close()
    server = start(no_auth=False)
    until(lambda: {server.url, server.grpc} <= set(server.log.read_text().split()))
    facts = json.loads((home / "run" / "server.json").read_text())
    assert (facts["pid"], facts["bases"]) == (server.process.pid, ["tiny"])
    assert (home / "run").stat().st_mode & 0o777 == 0o700
    assert get(f"{server.url}/readyz").status_code == 200
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 2}
    assert post(f"{server.url}/v1/completions", json=body).status_code == 401
    headers = {"authorization": f"Bearer {secret}"}
    answer = post(f"{server.url}/v1/completions", json=body, headers=headers)
    assert answer.status_code == 200
    engines = engines_of(server.process)
    assert len(engines) == 1
    assert server.stop() == 0
    assert not (home / "run" / "server.json").exists()
    assert all(gone(pid) for pid in engines)
    log = server.log.read_text()
    assert "Traceback" not in log and secret not in log


def test_what_is_pinned_is_resident_unasked_and_follows_its_alias(
    home, filled, start_server
) -> None:
    registry = filled(home)
    server = start_server(home, pinned=["mood@kept", "nobody"])

    def resident() -> str:
        return get(f"{server.url}/metrics").text.partition("vllm:lora_requests_info{")[2]

    until(lambda: unserved(server) == 2)
    for name in ("kind", "mood"):
        registry.promote("local", f"{name}:1", "kept")
    digest = registry.resolve("local", "mood").digest.removeprefix("sha256:")[:12]
    registry.close()
    until(lambda: digest in resident())
    assert unserved(server) == 2


def unserved(server) -> int:
    return server.log.read_text().count("a pinned name cannot be served yet")


def test_nothing_a_caller_wrote_or_got_is_in_the_log(server) -> None:
    secret = "zebra-canary"
    key = {"authorization": "Bearer rsk_canary_key"}
    before = len(logged(server))
    for body in ({"prompt": secret}, {"prompt": secret, "temperature": secret}, {"prompt": 1}):
        post(f"{server.url}/v1/completions", json={"model": "tiny"} | body, headers=key)
    post(f"{server.url}/v1/embeddings", json={"model": "reader", "input": secret})
    until(lambda: len(logged(server)) == before + 4)
    assert [line["status"] for line in logged(server)[before:]] == [200, 400, 400, 200]
    assert "canary" not in server.log.read_text()


def logged(server) -> list[dict]:
    """The log's lines about requests."""
    lines = [x for x in server.log.read_text().splitlines() if x.startswith("{")]
    return [line for line in map(json.loads, lines) if line["event"] == "request"]


def test_a_caller_who_leaves_frees_its_rows_in_the_engine(server) -> None:
    with stream("POST", f"{server.url}/v1/completions", json=LONG | {"n": 8}) as response:
        lines = response.iter_lines()  # kept: httpx leaves when it is collected
        next(lines)
        until(lambda: gauge(server.url, "vllm:num_requests_running") == 8)
    until(lambda: gauge(server.url, "vllm:num_requests_running") == 0)
    until(lambda: gauge(server.url, "vllm:kv_cache_usage_perc") == 0)


def test_heads_answer_from_one_request_and_name_their_digests(server) -> None:
    body = {"input": ["hello world", "lazy dog"], "models": ["mood", "kind"]}
    response = post(f"{server.url}/v1/classify", json=body)
    answer = response.json()
    for each in answer["data"]:
        assert [result["model"] for result in each["results"]] == ["mood", "kind"]
        for result in each["results"]:
            assert sum(result["probs"].values()) == pytest.approx(1)
            assert result["digest"] in response.headers["x-rootstock-adapter"]


def test_metrics_name_what_is_resident(server) -> None:
    post(f"{server.url}/v1/completions", json={"model": "loud", "prompt": "x", "max_tokens": 1})
    digest = get(f"{server.url}/v1/models/loud").json()["root"].removeprefix("sha256:")[:12]

    def running() -> str:
        text = get(f"{server.url}/metrics").text
        return re.search(r'running_lora_adapters="([^"]*)"', text)[1]

    until(lambda: digest in running())


def test_sigterm_ends_readiness_at_once_and_streams_when_they_are_done(start) -> None:
    server = start()
    # Connections made before SIGTERM: a probe's keeps answering, and no new work is taken.
    with (
        httpx.Client(base_url=server.url, timeout=WAIT_S) as probe,
        stream("POST", f"{server.url}/v1/completions", json=SHORT | {"n": 8}) as response,
    ):
        lines = response.iter_lines()
        next(lines)
        assert probe.get("/readyz").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        until(lambda: probe.get("/readyz").status_code == 503)
        assert probe.get("/livez").status_code == 200
        refused = probe.post("/v1/completions", json={"model": "tiny", "prompt": "x"})
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert [line for line in lines if line][-1] == DONE
    assert server.process.wait(60) == 0


def test_a_stream_that_outlives_the_drain_ends_with_an_error_event(start) -> None:
    server = start(limits={"drain_s": 0.0, "engine": {"threads": 1}})
    with stream("POST", f"{server.url}/v1/completions", json=LONG | {"n": 8}) as response:
        lines = response.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "overloaded"
    assert server.process.wait(60) == 0


def test_the_sidecar_is_started_again_when_it_ends_and_ends_with_the_server(start) -> None:
    server = start(no_sidecar=False)

    def sidecars() -> list[int]:
        return children(server.process, "rootstock_trainer.sidecar")

    until(sidecars)
    (first,) = sidecars()
    os.kill(first, signal.SIGKILL)
    until(lambda: sidecars() and sidecars() != [first])
    (second,) = sidecars()
    assert server.stop() == 0
    assert gone(second)


def _run(values: dict[str, object]) -> subprocess.CompletedProcess[str]:
    code = (
        "import json, sys; from rootstock_server.app import serve; "
        "from rootstock_server.config import load\n"
        "try: serve(load(json.loads(sys.argv[1]), {}))\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps({"no_sidecar": True, "grpc_port": 0} | values)],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def test_a_taken_port_is_told_before_anything_is_loaded(home, tiny) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = _run({"home": str(home), "bases": [f"tiny={tiny['tiny']}"], "port": port})
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


def test_a_folder_that_is_no_base_is_told(home, tmp_path) -> None:
    ended = _run({"home": str(home), "bases": [f"x={tmp_path}"], "port": 0})
    assert ended.returncode == 1
    assert "is not a base model" in ended.stderr
