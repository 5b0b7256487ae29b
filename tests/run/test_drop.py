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
from harness.run.commands.command import PLAIN_KINDS, OrderKind
from harness.run.commands.drop import drop, wait_for
from harness.run.commands.mailbox import Mailbox
from harness.run.lock import RunLock
from harness.run.paths import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run = RunDir(tmp_path)
    run.config.touch()
    return run


@contextmanager
def trainer(run_dir: RunDir) -> Iterator[None]:
    """Something that holds the run's lock and acknowledges every order at step 7."""
    stop = threading.Event()
    box = Mailbox(run_dir)

    def train() -> None:
        while not stop.wait(0.01):
            for order in box.poll():
                box.acknowledge(order, {"step": 7, "path": "checkpoints/step_0000007"})

    with RunLock(run_dir):
        thread = threading.Thread(target=train)
        thread.start()
        yield
        stop.set()
        thread.join()


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_a_dropped_order_reaches_the_mailbox(run_dir: RunDir, kind: OrderKind) -> None:
    box = Mailbox(run_dir)
    path = drop(run_dir, kind, "why not")
    (order,) = box.poll()
    assert (order.kind, order.reason, order.source) == (kind, "why not", path.name)


def test_waiting_returns_what_came_of_the_order(run_dir: RunDir) -> None:
    with trainer(run_dir):
        orders = [drop(run_dir, OrderKind.SAVE) for _ in range(2)]
        for order in orders:
            outcome = wait_for(run_dir, order, timeout_s=30, poll_s=0.01)
            assert outcome["step"] == 7
            assert outcome["source"] == order.name


def test_what_is_no_run_directory_takes_no_orders(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "gone"):
        with pytest.raises(UsageError) as caught:
            drop(RunDir(root), OrderKind.SAVE)
        assert str(caught.value) == (
            f"{root} is no run directory: there is no config.yaml in it; "
            "give the directory that training printed at its start, such as runs/NAME"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_mailbox_that_cannot_be_written_is_a_clear_error(run_dir: RunDir) -> None:
    run_dir.signals.write_text("in the way")
    with pytest.raises(UsageError, match=r"cannot put an order into .*signals: .*; only the user who trains may give"):
        drop(run_dir, OrderKind.SAVE)


def test_waiting_where_nobody_trains_says_so_and_leaves_the_order(run_dir: RunDir) -> None:
    order = drop(run_dir, OrderKind.SAVE)
    with pytest.raises(HarnessError) as caught:
        wait_for(run_dir, order, timeout_s=30)
    assert str(caught.value) == (
        f"nobody seems to train in {run_dir.root}: the order waits in {order} and takes effect when training is "
        "started; remove the file to withdraw it"
    )
    assert order.exists()


def test_an_acknowledged_order_is_reported_even_if_training_has_ended(run_dir: RunDir) -> None:
    order = drop(run_dir, OrderKind.STOP)
    with trainer(run_dir):
        wait_for(run_dir, order, timeout_s=30, poll_s=0.01)
    assert wait_for(run_dir, order, timeout_s=0)["kind"] == "stop"


def test_waiting_ends(run_dir: RunDir) -> None:
    order = drop(run_dir, OrderKind.SAVE)
    with RunLock(run_dir), pytest.raises(HarnessError) as caught:
        wait_for(run_dir, order, timeout_s=0.01, poll_s=0.001)
    assert str(caught.value) == (
        f"no answer from {run_dir.root} within 0.01 s: the order waits in {order} and takes effect at the end of the "
        "step; wait longer, or remove the file to withdraw it"
    )


def test_a_rejected_order_is_an_error_with_the_reason(run_dir: RunDir) -> None:
    order = drop(run_dir, OrderKind.SAVE)
    order.chmod(0o600)
    order.write_text("x" * 100_000)
    Mailbox(run_dir).poll()
    with pytest.raises(UsageError, match=rf"the run rejected the order {order.name}: larger than 64 KiB"):
        wait_for(run_dir, order, timeout_s=30)


@pytest.mark.parametrize(("age_s", "text"), [(0, "no answer"), (10_000, "nobody seems to train")])
def test_the_lock_of_another_host_may_be_invisible_then_fresh_metrics_count(
    run_dir: RunDir, age_s: float, text: str
) -> None:
    with RunLock(run_dir):
        owner_text = run_dir.lock.read_text()
    run_dir.lock.write_text(owner_text.replace(socket.gethostname(), "another-host"))
    run_dir.metrics.touch()
    os.utime(run_dir.metrics, (time.time() - age_s,) * 2)
    order = drop(run_dir, OrderKind.SAVE)
    with pytest.raises(HarnessError, match=text):
        wait_for(run_dir, order, timeout_s=0)
