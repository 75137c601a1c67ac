"""A tracking server in its own process, and a gate before it that loses, delays and refuses what it is told to."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, TypeAlias

Fate: TypeAlias = Literal["pass", "refuse", "lose the answer", "hang"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """MLflow's own server on a database in `folder`; it can be killed, and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, seconds: float = 240) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": ""}
        log = (self.folder / "server.log").open("a")
        with log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + seconds
        while not self.answers():
            assert time.monotonic() < end, "the server does not start"
            assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    def kill(self) -> None:
        """Kill it and its workers at once, as a power cut does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        self.process.wait()


class Gate:
    """Passes requests on to a server, or does with them what `fate` says of the number of the request."""

    def __init__(self, server: Server) -> None:
        self.server, self.count, self.refused = server, 0, 0
        self.fate: Callable[[int], Fate] = lambda number: "pass"
        self.authorization: str | None = None
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                gate.handle(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815 (http.server names them)

            def log_message(self, *about: Any) -> None:
                pass

        self.listener = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.address = f"127.0.0.1:{self.listener.server_port}"
        self.uri = f"http://{self.address}"
        threading.Thread(target=self.listener.serve_forever, args=(0.05,), daemon=True).start()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        self.count += 1
        fate = self.fate(self.count)
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self.authorization is not None and request.headers.get("Authorization") != self.authorization:
            self.refused += 1
            self.reply(request, 401, b'{"error_code": "UNAUTHENTICATED", "message": "who are you?"}')
        elif fate in ("refuse", "hang"):
            time.sleep(60 if fate == "hang" else 0)
            self.drop(request)
        else:
            status, answer = self.forward(request, body)
            self.drop(request) if fate == "lose the answer" else self.reply(request, status, answer)

    def forward(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=120)
        headers = {name: value for name, value in request.headers.items() if name not in ("Host", "Authorization")}
        connection.request(request.command, request.path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()

    def reply(self, request: BaseHTTPRequestHandler, status: int, answer: bytes) -> None:
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(answer)))
        request.end_headers()
        request.wfile.write(answer)

    def drop(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        with contextlib.suppress(OSError):
            request.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    server = Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()
