"""The HTTP client over a real socket: answers, streams, refusals, and servers that misbehave."""

from __future__ import annotations

import inspect
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest
from rootstock_client import ApiError, AsyncClient, Client, RootstockClientError, Unreachable

HELLO = [{"role": "user", "content": "hello"}]


def test_an_answer_names_the_digest_and_may_carry_fields_of_a_newer_server(loopback: Any) -> None:
    with Client(loopback.url) as client:
        answer = client.complete("triage", "Hello", max_tokens=2, stop=["."])
    assert answer.choices[0].text == " world"
    assert answer.system_fingerprint.startswith("sha256:")
    assert loopback.bodies == [
        {"model": "triage", "prompt": "Hello", "max_tokens": 2, "stop": ["."]}
    ]


def test_the_key_travels_as_a_bearer_token_and_is_absent_without_one(loopback: Any) -> None:
    with Client(loopback.url, "rsk_secret") as client:
        client.complete("m", "Hello")
    with Client(loopback.url) as client:
        client.complete("m", "Hello")
    assert loopback.keys == ["Bearer rsk_secret", None]


def test_a_blocking_stream_yields_pieces_and_ends_with_reason_and_usage(loopback: Any) -> None:
    with Client(loopback.url) as client, client.stream_chat("m", HELLO) as stream:
        assert stream.digest.startswith("sha256:")
        assert stream.finish_reason is None
        assert list(stream) == ["Hel", "lo"]
        assert stream.finish_reason == "stop"
        assert stream.usage is not None and stream.usage.total_tokens == 5


async def test_an_async_stream_yields_the_same_pieces(loopback: Any) -> None:
    async with AsyncClient(loopback.url) as client, await client.stream_chat("m", HELLO) as stream:
        assert [piece async for piece in stream] == ["Hel", "lo"]


def test_closing_a_stream_early_reaches_the_server(loopback: Any) -> None:
    with Client(loopback.url) as client:
        with client.stream_chat("endless", HELLO) as stream:
            assert next(stream) == "Hel"
        assert loopback.stream_cancelled.wait(timeout=60)


def test_a_refusal_carries_everything_of_the_error_body(loopback: Any) -> None:
    with Client(loopback.url) as client, pytest.raises(ApiError) as caught:
        client.complete("busy", "Hello")
    error = caught.value
    assert (error.status, error.message) == (503, "the queue is full")
    assert (error.type, error.code) == ("service_unavailable_error", "overloaded")
    assert (error.param, error.retry_after_s) == (None, 2)


def test_an_error_inside_a_stream_is_raised_after_the_pieces_before_it(loopback: Any) -> None:
    with Client(loopback.url) as client, client.stream_chat("fails", HELLO) as stream:
        assert next(stream) == "Hel"
        with pytest.raises(ApiError, match="the engine restarted") as caught:
            next(stream)
    assert caught.value.status == 503


def test_a_stream_that_breaks_off_is_not_mistaken_for_a_finished_one(loopback: Any) -> None:
    with Client(loopback.url) as client, client.stream_chat("breaks", HELLO) as stream:
        assert next(stream) == "Hel"
        with pytest.raises(Unreachable, match="before its last event"):
            next(stream)


def test_a_server_of_another_kind_and_a_proxy_error_are_said_plainly(loopback: Any) -> None:
    with Client(loopback.url) as client:
        with pytest.raises(RootstockClientError, match="as a Rootstock server does"):
            client.models()
        with pytest.raises(ApiError, match="bad gateway") as caught:
            client.embed("m", "Hello")
    assert caught.value.status == 502


def test_nobody_listening_is_unreachable_and_the_message_names_the_address() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and nobody else's meanwhile, but it does not listen
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with Client(url) as client, pytest.raises(Unreachable, match=f"no answer from {url}"):
            client.complete("m", "Hello")


def test_a_silent_server_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        given_up = pytest.raises(Unreachable, match="ReadTimeout")
        with Client(url, timeout_s=0.5) as client, given_up:
            client.models()


def test_ctrl_c_ends_a_waiting_call_and_the_program_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = f"""
import os, signal, threading
from rootstock_client import Client
with Client({url!r}, timeout_s=600) as client:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    client.models()
"""
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120)
    assert b"KeyboardInterrupt" in ended.stderr


def test_closing_twice_is_harmless(loopback: Any) -> None:
    with Client(loopback.url) as client:
        client.close()


def test_one_blocking_client_serves_several_threads(loopback: Any) -> None:
    texts: list[str] = []
    with Client(loopback.url) as client:

        def ask() -> None:
            texts.append(client.complete("m", "Hello").choices[0].text)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == [" world"] * 8


def test_every_method_of_the_async_client_has_its_blocking_form() -> None:
    asynchronous = {n for n in vars(AsyncClient) if not n.startswith("_")}
    blocking = {n for n in vars(Client) if not n.startswith("_")}
    assert asynchronous == blocking
    assert inspect.getdoc(Client.chat) == inspect.getdoc(AsyncClient.chat)


def test_an_unclosed_client_does_not_keep_the_program_alive(loopback: Any) -> None:
    program = (
        f"from rootstock_client import Client; Client({loopback.url!r}).complete('m', 'Hello')"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("package", ["rootstock_wire.openai", "rootstock_client"])
def test_the_client_imports_nothing_heavy(package: str) -> None:
    heavy = ["torch", "transformers", "numpy", "sqlalchemy", "fastapi", "rootstock_server"]
    program = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    seen = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert seen.stdout == "[]\n", seen.stderr
