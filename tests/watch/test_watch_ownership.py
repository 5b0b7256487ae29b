"""The watcher runs commands and sends alerts, so it takes them from nobody but the user whose process it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from stand_in import StandIn, run_dir_in

from harness import cli
from harness.alerts.alert import Alert, Kind
from harness.alerts.book_file import changing
from harness.alerts.desk import AlertDesk

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    return tmp_path / "sent"


@pytest.fixture
def run(tmp_path: Path, sent: Path) -> StandIn:
    """A run whose watcher has an alert to send, by a command of the configuration."""
    command = ["/bin/sh", "-c", f"cat >> {sent}"]
    run = StandIn(run_dir_in(tmp_path), changes={"alert_command": command, "least_free_gib": 0})
    run.train(5)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
    set_off = Alert(key="x", kind=Kind.DISK, text="set off", lasts=True)
    AlertDesk.of(run.run_dir, run.config, may_send=False).tell(set_off)
    with changing(run.run_dir) as (book, _):
        book.things["x"].is_told = False  # so that the next look sends it
        book.sent = {}
    return run


def test_ones_own_run_sends(run: StandIn, sent: Path) -> None:
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
    assert "set off" in sent.read_text()


def test_who_only_looks_sends_nothing(run: StandIn, sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run.event("exit", exit_code=70, reason="a bug")
    assert cli.run(["watch", str(run.run_dir.root), "--once", "--no-orders"]) == 0
    assert "the run has ended, and does not come back by itself: a bug" in capsys.readouterr().out
    assert not sent.exists()
    assert "the run has ended, and does not come back by itself: a bug" in run.run_dir.watch_alerts.read_text()


@only_root
@pytest.mark.parametrize("name", ["config.yaml", "watch/state.json"])
@pytest.mark.parametrize("option", [(), ("--no-orders",)])
def test_nothing_of_another_users_run_is_executed(
    run: StandIn, sent: Path, name: str, option: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.run_dir.root / name
    os.chown(path, 65534, -1)
    assert cli.run(["watch", str(run.run_dir.root), "--once", *option]) == 64
    error = capsys.readouterr().err
    assert f"{path} belongs to user 65534, and this is user 0. Nothing is done" in error
    assert not sent.exists()


@only_root
def test_a_configuration_that_is_given_is_ones_own_too(run: StandIn, sent: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_bytes(run.run_dir.config.read_bytes())
    os.chown(other, 65534, -1)
    assert cli.run(["watch", str(run.run_dir.root), "--once", "--config", str(other)]) == 64
    assert not sent.exists()


@pytest.mark.parametrize("name", ["config.yaml", "watch/state.json"])
def test_a_link_is_no_file_of_ones_own(
    run: StandIn, sent: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run.run_dir.root / name
    path.symlink_to(path.rename(tmp_path / "elsewhere"))
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 64
    assert "a symbolic link, not a regular file" in capsys.readouterr().err
    assert not sent.exists()


def test_a_command_that_others_could_have_written_is_not_executed(
    run: StandIn, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.run_dir.config.chmod(0o646)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 64
    assert "can be changed by other users; take that right away with `chmod go-w`" in capsys.readouterr().err
    assert not sent.exists()
    run.run_dir.config.chmod(0o664)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0  # one's own group is oneself


@only_root
def test_a_group_of_others_may_not_write_a_command(run: StandIn, sent: Path) -> None:
    run.run_dir.config.chmod(0o664)
    os.chown(run.run_dir.config, -1, 65534)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 64
    assert not sent.exists()


def test_a_configuration_without_a_command_may_be_shared(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"least_free_gib": 0})
    run.run_dir.config.chmod(0o666)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
