from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.errors import HarnessError, UsageError
from harness.run.commands.giving import give, wait_for
from harness.run.commands.kinds import CommandKind
from harness.run.commands.mailbox import Mailbox
from harness.run.commands.requests import PLAIN_KINDS, make_request
from harness.run.lock import RunLock
from harness.run.paths import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.config.touch()
    return run


@contextmanager
def trainer(run_dir: RunDir) -> Iterator[None]:
    """Something that holds the run's lock and acknowledges every command at step 7."""
    stop = threading.Event()
    box = Mailbox(run_dir)

    def train() -> None:
        while not stop.wait(0.01):
            for command in box.poll():
                box.acknowledge(command, {"step": 7, "path": "checkpoints/step_0000007"})

    with RunLock(run_dir):
        thread = threading.Thread(target=train)
        thread.start()
        yield
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_dropped_order_reaches_the_mailbox(run_dir: RunDir, kind: CommandKind) -> None:
    box = Mailbox(run_dir)
    with RunLock(run_dir):  # somebody trains
        path = give(run_dir, make_request(kind, {}), "why not")
    (command,) = box.poll()
    assert (command.kind, command.reason, command.source) == (kind, "why not", path.name)


def test_waiting_returns_what_came_of_the_order(run_dir: RunDir) -> None:
    with trainer(run_dir):
        commands = [give(run_dir, make_request(CommandKind.SAVE, {})) for _ in range(2)]
        for command in commands:
            outcome = wait_for(run_dir, command, timeout_s=30, poll_s=0.01)
            assert outcome["step"] == 7
            assert outcome["source"] == command.name


def test_what_is_no_run_directory_takes_no_orders(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UsageError) as caught:
            give(RunDir(root), make_request(CommandKind.SAVE, {}))
        assert str(caught.value) == (
            f"{root} is not a run directory: there is no config.yaml in it; "
            "give the directory that training printed at its start, such as runs/NAME"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_mailbox_that_cannot_be_written_is_a_clear_error(run_dir: RunDir) -> None:
    run_dir.signals.write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot put a command into .*signals: .*; only the user who trains may give"):
        give(run_dir, make_request(CommandKind.SAVE, {}))


def test_waiting_where_nobody_trains_says_so_and_leaves_the_order(run_dir: RunDir) -> None:
    command = give(run_dir, make_request(CommandKind.SAVE, {}))
    with pytest.raises(HarnessError) as caught:
        wait_for(run_dir, command, timeout_s=30)
    assert str(caught.value) == (
        f"nobody seems to train in {run_dir.root}: the command waits in {command} and takes effect when "
        "training is started; remove the file to withdraw it"
    )
    assert command.exists()


def test_an_acknowledged_order_is_reported_even_if_training_has_ended(run_dir: RunDir) -> None:
    command = give(run_dir, make_request(CommandKind.STOP, {}))
    with trainer(run_dir):
        wait_for(run_dir, command, timeout_s=30, poll_s=0.01)
    assert wait_for(run_dir, command, timeout_s=0)["kind"] == "stop"


def test_waiting_ends(run_dir: RunDir) -> None:
    command = give(run_dir, make_request(CommandKind.SAVE, {}))
    with RunLock(run_dir), pytest.raises(HarnessError) as caught:
        wait_for(run_dir, command, timeout_s=0.01, poll_s=0.001)
    assert str(caught.value) == (
        f"no answer from {run_dir.root} within 0.01 s: the command waits in {command} and takes effect at the "
        "end of the step; wait longer, or remove the file to withdraw it"
    )


def test_a_rejected_order_is_an_error_with_the_reason(run_dir: RunDir) -> None:
    command = give(run_dir, make_request(CommandKind.SAVE, {}))
    command.chmod(0o600)
    command.write_text("x" * 100_000)
    Mailbox(run_dir).poll()
    with pytest.raises(UsageError, match=rf"the run rejected the command {command.name}: larger than 64 KiB"):
        wait_for(run_dir, command, timeout_s=30)


@pytest.mark.parametrize(("age_s", "text"), [(0, "no answer"), (10_000, "nobody seems to train")])
def test_the_lock_of_another_host_may_be_invisible_then_fresh_metrics_count(
    run_dir: RunDir, age_s: float, text: str
) -> None:
    with RunLock(run_dir):
        owner_text = run_dir.lock.read_text()
    run_dir.lock.write_text(owner_text.replace(socket.gethostname(), "another-host"))
    run_dir.metrics.touch()
    os.utime(run_dir.metrics, (time.time() - age_s,) * 2)
    command = give(run_dir, make_request(CommandKind.SAVE, {}))
    with pytest.raises(HarnessError, match=text):
        wait_for(run_dir, command, timeout_s=0)
