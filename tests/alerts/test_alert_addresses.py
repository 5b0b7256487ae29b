"""The places for alerts in a configuration: what is wrong with them is said before anything is watched."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest
import yaml
from alert_samples import message
from run_samples import untrained_run

from harness import cli
from harness.alerts.addresses import deliveries
from harness.alerts.alert import Message, Severity
from harness.alerts.delivery import BoundedDelivery, UndeliveredError
from harness.errors import UsageError

SECRET = "s3cr3t"


def test_a_command_gets_json_and_no_shell(tmp_path: Path) -> None:
    program = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_bytes(sys.stdin.buffer.read())"
    (one,) = deliveries((sys.executable, "-c", program, str(tmp_path / "$(touch x); out")), None)
    one.deliver(message(text="损失 went up"))
    written = (tmp_path / "$(touch x); out").read_text()
    assert json.loads(written)["what"] == "损失 went up"
    assert written.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "text"),
    [(("/nowhere/to/be/found",), "/nowhere/to/be/found: FileNotFoundError"), (("false",), "false ended with 1")],
)
def test_a_command_that_fails_is_said(command: tuple[str, ...], text: str) -> None:
    (one,) = deliveries(command, None)
    with pytest.raises(UndeliveredError, match=text):
        one.deliver(message())


def test_an_address_may_say_what_matters_enough_for_it(tmp_path: Path) -> None:
    urls = tmp_path / "urls"
    urls.write_text(
        f"# who is told\npagerduty://{SECRET}\npage pagerduty://{SECRET}2\nwarning  pagerduty://{SECRET}3\n"
        f"escalation pagerduty://{SECRET}4\n"
    )
    urls.chmod(0o600)
    places = [each.place for each in deliveries((), urls)]
    assert [place.least for place in places] == [Severity.INFO, Severity.PAGE, Severity.WARNING, Severity.PAGE]
    assert [place.only_unacknowledged for place in places] == [False, False, False, True]
    assert len({place.name for place in places}) == 4
    assert SECRET not in str(places)


def test_a_place_that_takes_its_time_is_not_waited_for_and_heard_later() -> None:
    taken: list[str] = []
    goes_on = threading.Event()
    first, second = message(text="first"), message(text="second", number=2)

    def slow(what: Message) -> None:
        goes_on.wait()
        taken.append(what.alert.text)

    place = BoundedDelivery(slow, patience_s=0.05)
    for _ in range(2):
        with pytest.raises(UndeliveredError, match=r"no answer within 0\.05 s"):
            place(first)
    goes_on.set()
    BoundedDelivery(slow)(message(text="another place", number=3))
    while taken.count("first") < 1:
        pass
    place(first)
    place(second)
    assert taken.count("first") == 1, "it was sent twice"
    assert taken[-1] == "second"


def test_whatever_a_place_raises_is_told_without_its_text() -> None:
    def broken(what: Message) -> None:
        raise RuntimeError(SECRET)

    with pytest.raises(UndeliveredError, match="^RuntimeError$"):
        BoundedDelivery(broken)(message())


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
    run_dir = untrained_run(tmp_path / "run")
    urls = tmp_path / "urls"
    urls.write_text(f"# robots\n{address}\n")
    urls.chmod(0o600)
    config = yaml.safe_load(run_dir.config.read_text())
    config["watch"] = {"alert_urls_file": str(urls)}
    run_dir.config.write_text(yaml.safe_dump(config))
    root = str(run_dir.root)
    assert cli.run(["watch", root, "--once"]) == 64
    told = capsys.readouterr().err
    assert f"{urls}:2: not the address of a place for alerts" in told
    assert "7f3a9c" not in told
    config["watch"]["alert_urls_file"] = None
    run_dir.config.write_text(yaml.safe_dump(config))
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
