"""Alerts reach people, one of a kind in some minutes, and wait where nobody takes them."""

from __future__ import annotations

import http.server
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from stand_in import StandIn

from harness import cli
from harness.errors import UsageError
from harness.run.paths import RunDir
from harness.watch import delivery
from harness.watch.alerts import Alerts
from harness.watch.delivery import BoundedDelivery, UndeliveredError, deliveries
from harness.watch.saved_state import WatchState

SECRET = "s3cr3t"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_of_a_kind_at_a_time_and_the_others_are_counted(tmp_path: Path) -> None:
    sent: list[str] = []
    clock, state = Clock(), WatchState()
    alerts = Alerts(tmp_path / "alerts.jsonl", "llama", [sent.append], 600.0, clock)
    for text in ("first", "second", "third"):
        alerts.alert(state, "spike", text)
    alerts.alert(state, "order", "another kind")
    assert sent == ["llama: first", "llama: another kind"]
    clock.now += 601
    alerts.alert(state, "spike", "fourth")
    assert sent[-1] == "llama: fourth (2 more of this kind since the last message)"
    clock.now -= 5000  # a clock that is set back
    alerts.alert(state, "spike", "fifth")
    assert sent[-1] == "llama: fifth"
    written = lines(tmp_path / "alerts.jsonl")
    assert [line["text"] for line in written] == ["first", "second", "third", "another kind", "fourth", "fifth"]
    assert [line["sent"] for line in written] == [True, False, False, True, True, True]


def test_what_nobody_takes_is_kept_and_tried_again(tmp_path: Path) -> None:
    taken: list[str] = []
    is_down = True

    def place(text: str) -> None:
        if is_down:
            raise UndeliveredError("mail: refused")
        taken.append(text)

    clock, state = Clock(), WatchState()
    alerts = Alerts(tmp_path / "alerts.jsonl", "llama", [place], 0.0, clock)
    alerts.alert(state, "spike", "look")
    assert state.undelivered == ["llama: look"]
    assert lines(tmp_path / "alerts.jsonl")[-1]["text"] == "mail: refused"
    is_down = False
    alerts.deliver(state)
    assert taken == []  # not at once
    alerts.deliver(state, is_last=True)
    assert taken == ["llama: look"]


def test_what_waits_is_sent_by_the_next_watcher(tmp_path: Path) -> None:
    taken: list[str] = []
    clock, state = Clock(), WatchState(undelivered=["llama: look"])
    clock.now += 61
    Alerts(tmp_path / "alerts.jsonl", "llama", [taken.append], 0.0, clock).deliver(state)
    assert taken == ["llama: look"]
    assert state.undelivered == []


def test_a_command_gets_json_and_no_shell(tmp_path: Path) -> None:
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    (deliver,) = deliveries((sys.executable, "-c", program, str(tmp_path / "$(touch x); out")), None)
    deliver("损失 went up")
    assert json.loads((tmp_path / "$(touch x); out").read_text()) == {"text": "损失 went up"}


@pytest.mark.parametrize(
    ("command", "text"),
    [(("/nowhere/to/be/found",), "/nowhere/to/be/found: FileNotFoundError"), (("false",), "false ended with 1")],
)
def test_a_command_that_fails_is_said(command: tuple[str, ...], text: str) -> None:
    (deliver,) = deliveries(command, None)
    with pytest.raises(UndeliveredError, match=text):
        deliver("x")


@pytest.fixture
def robot() -> Iterator[tuple[str, list[Any], list[bytes]]]:
    """A webhook that answers HTTP 200 whatever it thinks: its address, what it got, what it answers."""
    got: list[Any] = []
    answers: list[bytes] = []

    class Robot(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers[0])

        def log_message(self, format: str, *arguments: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Robot)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook/{SECRET}", got, answers
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("hosts", "refusal", "agreement", "body"),
    [
        ("_FEISHU_HOSTS", b'{"code": 19021}', b'{"code": 0}', {"msg_type": "text", "content": {"text": "hello"}}),
        (
            "_DINGTALK_HOSTS",
            b'{"errcode": 310000}',
            b'{"errcode": 0}',
            {"msgtype": "text", "text": {"content": "hello"}},
        ),
    ],
)
def test_a_webhook_that_refuses_with_http_200_is_heard(
    hosts: str,
    refusal: bytes,
    agreement: bytes,
    body: dict[str, Any],
    robot: tuple[str, list[Any], list[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url, got, answers = robot
    monkeypatch.setattr(delivery, hosts, ("127.0.0.1",))
    (tmp_path / "urls").write_text(f"# robots\n{url}\n")
    (tmp_path / "urls").chmod(0o600)
    (deliver,) = deliveries((), tmp_path / "urls")
    for answer in (refusal, b"not json"):
        answers[:] = [answer]
        with pytest.raises(UndeliveredError) as caught:
            deliver("hello")
        assert SECRET not in str(caught.value)
        assert "127.0.0.1" in str(caught.value)
    answers[:] = [agreement]
    deliver("hello")
    assert got[-1] == body


ODD_ANSWERS = {
    "what is no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "an answer that is cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    "a chunk that is cut off": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "an error": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    "not now": b"HTTP/1.1 429 Later\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "much": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 10_000_000,
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_a_webhook_that_answers_oddly_is_one_that_took_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_FEISHU_HOSTS", ("127.0.0.1",))
    with listening(lambda connection: connection.sendall(ODD_ANSWERS[name])) as url:
        (deliver,) = deliveries((), None, [f"{url}/{SECRET}"])
        with pytest.raises(UndeliveredError) as caught:
            deliver("hello")
    assert SECRET not in str(caught.value)
    assert str(caught.value).startswith("127.0.0.1")


def test_an_alert_follows_no_redirection(monkeypatch: pytest.MonkeyPatch) -> None:
    visited: list[bytes] = []
    monkeypatch.setattr(delivery, "_FEISHU_HOSTS", ("127.0.0.1",))
    with listening(lambda connection: visited.append(b"elsewhere")) as elsewhere:
        answer = f"HTTP/1.1 302 There\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n\r\n".encode()
        with listening(lambda connection: connection.sendall(answer)) as url:
            (deliver,) = deliveries((), None, [url])
            with pytest.raises(UndeliveredError, match="HTTPError"):
                deliver("hello")
    assert visited == []


def test_a_place_that_takes_its_time_is_not_waited_for_and_heard_later() -> None:
    taken: list[str] = []
    goes_on = threading.Event()

    def slow(text: str) -> None:
        goes_on.wait()
        taken.append(text)

    place = BoundedDelivery(slow, patience_s=0.05)
    for _ in range(2):
        with pytest.raises(UndeliveredError, match=r"no answer within 0\.05 s"):
            place("first")
    goes_on.set()
    BoundedDelivery(slow)("another place")
    while taken.count("first") < 1:
        pass
    place("first")
    place("second")
    assert taken.count("first") == 1, "it was sent twice"
    assert taken[-1] == "second"


def test_whatever_a_place_raises_is_told_without_its_text() -> None:
    def broken(text: str) -> None:
        raise RuntimeError(SECRET)

    with pytest.raises(UndeliveredError, match="^RuntimeError$"):
        BoundedDelivery(broken)("hello")


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


def test_addresses_of_apprise(monkeypatch: pytest.MonkeyPatch) -> None:
    class Apprise:
        def add(self, url: str) -> bool:
            return not url.startswith("odd")

        def notify(self, title: str, body: str) -> bool:
            return body != "unlucky"

    library = ModuleType("apprise")
    library.Apprise = Apprise  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "apprise", library)
    (deliver,) = deliveries((), None, [f"slack://{SECRET}"])
    deliver("hello")
    with pytest.raises(UndeliveredError, match="^slack: apprise could not deliver it$"):
        deliver("unlucky")
    with pytest.raises(
        UsageError, match="apprise does not understand the alert address that begins with odd:"
    ) as caught:
        deliveries((), None, [f"odd://{SECRET}"])
    assert SECRET not in str(caught.value)


def test_what_is_missing_is_said_before_anything_is_watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(UsageError, match="needs the Python package apprise, which is not installed") as caught:
        deliveries((), None, [f"slack://{SECRET}"])
    assert SECRET not in str(caught.value)
    with pytest.raises(UsageError, match="watch.alert_urls_file: cannot read .*: No such file"):
        deliveries((), tmp_path / "missing")


@pytest.mark.parametrize(
    "address",
    [
        "7f3a9c-this-is-a-token",
        "7f3a9c:AAErandomtoken",
        "token7f3a9c:x",
        "http://[7f3a9c",
        "sla\x1bck://7f3a9c",
        "://7f3a9c",
    ],
)
def test_what_is_no_address_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str) -> None:
    run = StandIn(RunDir(tmp_path / "run"))
    urls = tmp_path / "urls"
    urls.write_text(f"# robots\n{address}\n")
    urls.chmod(0o600)
    config = yaml.safe_load(run.run_dir.config.read_text())
    config["watch"]["alert_urls_file"] = str(urls)
    run.run_dir.config.write_text(yaml.safe_dump(config))
    root = str(run.run_dir.root)
    assert cli.run(["watch", root, "--once"]) == 64
    told = capsys.readouterr().err
    assert f"{urls}:2: not the address of a place for alerts" in told
    assert "7f3a9c" not in told
    config["watch"]["alert_urls_file"] = None
    run.run_dir.config.write_text(yaml.safe_dump(config))
    assert cli.run(["watch", root, "--once", "--alert-url", address]) == 64
    told = capsys.readouterr().err
    assert "alert address 1: not the address of a place for alerts" in told
    assert "7f3a9c" not in told


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o777])
def test_a_file_of_addresses_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    urls = tmp_path / "urls"
    urls.write_text(f"slack://{SECRET}\n")
    urls.chmod(mode)
    with pytest.raises(
        UsageError, match=f"can be read or written by others \\(mode {mode:04o}\\).*chmod 600"
    ) as caught:
        deliveries((), urls)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe", "is not UTF-8"), (b"x" * (300 * 1024), "is larger than 256 KiB"), (None, "not a regular file")],
)
def test_a_file_that_is_no_file_of_addresses(tmp_path: Path, content: bytes | None, message: str) -> None:
    urls = tmp_path / "urls"
    if content is None:
        os.mkfifo(urls, 0o600)
    else:
        urls.write_bytes(content)
        urls.chmod(0o600)
    with pytest.raises(UsageError, match=f"watch.alert_urls_file: .*{message}"):
        deliveries((), urls)
