"""An S3 server, and a proxy in front of it that breaks answers on request."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# On a port of its own choice, which it says.
_SERVER = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""
HANGS_S = 5.0  # longer than a client that gives up waits
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"
_DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of moto's server, in a process of its own, with the bucket `shelf`."""
    command, quiet = [sys.executable, "-c", _SERVER], subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=quiet, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{int(server.stdout.readline())}"
            bucket = urllib.request.Request(f"{address}/shelf", method="PUT")
            urllib.request.urlopen(bucket, timeout=60).close()
            yield address
        finally:
            server.kill()


@dataclass
class Proxy:
    """`faults` are used up one per request, oldest first; `requests` are what has come in.

    A list that is `stale` is the last one that was not: `listed`.
    """

    address: str
    faults: deque[str] = field(default_factory=deque)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    listed: tuple[int, dict[str, str], bytes] = (200, {}, b"")

    def sent(self, method: str) -> int:
        return sum(1 for request in self.requests if request[0] == method)


@contextlib.contextmanager
def proxy_to(server: str) -> Iterator[Proxy]:
    proxy = Proxy("")
    backend = server.removeprefix("http://")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            proxy.requests.append((self.command, self.path, headers))
            fault = proxy.faults.popleft() if proxy.faults else ""
            _Answer(proxy, self, backend, body).give(fault)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _any

    server_ = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server_.daemon_threads = True
    proxy.address = f"http://127.0.0.1:{server_.server_address[1]}"
    thread = threading.Thread(target=server_.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server_.shutdown()
        thread.join()
        server_.server_close()


class _Answer:
    def __init__(
        self, proxy: Proxy, handler: BaseHTTPRequestHandler, backend: str, body: bytes
    ) -> None:
        self._proxy = proxy
        self._handler = handler
        self._backend = backend
        self._body = body

    def give(self, fault: str) -> None:
        handler = self._handler
        if fault == "reset":
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        elif fault == "hang":
            time.sleep(HANGS_S)
            handler.close_connection = True
        elif fault in ("500", "503", "403", "409"):
            self._send(int(fault), {}, _DENIED if fault == "403" else _SLOW_DOWN)
        elif fault == "stale":
            self._send(*self._proxy.listed)
        else:
            answer = self._forwarded()
            if "list-type" in handler.path:
                self._proxy.listed = answer
            self._send(*answer, fault=fault)

    def _forwarded(self) -> tuple[int, dict[str, str], bytes]:
        handler = self._handler
        with contextlib.closing(http.client.HTTPConnection(self._backend, timeout=30)) as backend:
            backend.request(handler.command, handler.path, self._body, dict(handler.headers))
            answer = backend.getresponse()
            data = answer.read()
        dropped = {"transfer-encoding", "connection", "date", "server"}
        if handler.command != "HEAD":
            dropped.add("content-length")
        headers = {k: v for k, v in answer.getheaders() if k.lower() not in dropped}
        return answer.status, headers, data

    def _send(self, status: int, headers: dict[str, str], data: bytes, fault: str = "") -> None:
        handler = self._handler
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        if handler.command != "HEAD":
            handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        if fault == "wrong":
            data = bytes(byte ^ 1 for byte in data[:1]) + data[1:]
        if fault == "short":
            data = data[: len(data) // 2]
            handler.close_connection = True
        if handler.command != "HEAD":
            handler.wfile.write(data)
