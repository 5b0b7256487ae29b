"""The internet as a test wants it: a proxy that answers for every host itself, with certificates of its own."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

Answer = tuple[int, dict[str, str], bytes] | None
"""Status, headers and body; None for no answer at all."""


@dataclass
class Posted:
    """What somebody posted."""

    host: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Internet:
    """Takes what is posted, and answers as the test says."""

    answer: Callable[[Posted], Answer]
    posted: list[Posted] = field(default_factory=list)

    def bodies(self, host: str) -> list[Any]:
        """What was posted to a host, oldest first."""
        return [each.body for each in self.posted if each.host == host]


def ok(fields: dict[str, Any], status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(fields).encode()


@contextmanager
def internet(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Posted], Answer]) -> Iterator[Internet]:
    """Stands between this process, and what it starts, and the internet."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "authority.pem")
    world = Internet(answer)
    server = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()
    threads: list[threading.Thread] = []

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            thread = threading.Thread(target=_serve, args=(connection, authority, world, ended))
            thread.start()
            threads.append(thread)

    accepting = threading.Thread(target=accept)
    accepting.start()
    proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, proxy)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(folder / "authority.pem"))
    try:
        yield world
    finally:
        ended.set()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        accepting.join()
        for thread in threads:
            thread.join()


def _serve(connection: socket.socket, authority: trustme.CA, world: Internet, ended: threading.Event) -> None:
    with connection, suppress(OSError, ValueError):
        first, _ = _read_head(connection)
        host = first.split()[1].partition(":")[0]
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host).configure_cert(context)
        with context.wrap_socket(connection, server_side=True) as tls:
            line, rest = _read_head(tls)
            headers = {
                name.lower(): value.strip() for name, _, value in (each.partition(":") for each in rest.splitlines())
            }
            body = b""
            while len(body) < int(headers.get("content-length", 0)):
                body += tls.recv(65536)
            posted = Posted(host, line.split()[1], headers, _parsed(body))
            world.posted.append(posted)
            answer = world.answer(posted)
            if answer is None:
                ended.wait()
                return
            status, more, content = answer
            head = "".join(
                f"{name}: {value}\r\n" for name, value in (more | {"Content-Length": str(len(content))}).items()
            )
            tls.sendall(f"HTTP/1.1 {status} So\r\n{head}Connection: close\r\n\r\n".encode() + content)


def _read_head(connection: socket.socket) -> tuple[str, str]:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise OSError("hung up")
        head += byte
    first, _, rest = head.decode().strip().partition("\r\n")
    return first, rest


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


@contextmanager
def listening(answer: Callable[[socket.socket], object]) -> Iterator[str]:
    """A server that reads a request's beginning, answers and hangs up; its address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(65536)
                answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()
