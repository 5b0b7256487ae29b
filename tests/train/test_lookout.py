"""The look for commands beside training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.run.commands.mailbox import Mailbox
from harness.run.paths import RunDir
from harness.train.components.lookout import Lookout


def kinds_found(lookout: Lookout, enough: Callable[[list[str]], bool]) -> list[str]:
    """Kinds of the commands that a training loop takes, until there are enough."""
    found: list[str] = []
    deadline = time.monotonic() + 30
    while not enough(found):
        assert time.monotonic() < deadline, found
        found += [command.kind.value for command in lookout.take()]
        time.sleep(0.01)
    return found


def test_a_command_is_found_beside_training_and_once(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    lookout = Lookout(Mailbox(run_dir))
    assert lookout.take() == []
    (run_dir.signals / "save").touch()
    assert kinds_found(lookout, lambda found: bool(found)) == ["save"]
    time.sleep(0.1)
    assert lookout.take() == []
    lookout.close()


def test_a_look_at_once_finds_what_is_there(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    lookout = Lookout(Mailbox(run_dir))
    (run_dir.signals / "stop").touch()
    (command,) = lookout.look()
    assert lookout.look() == []
    lookout.acknowledge(command, {"step": 3})
    assert [path.name for path in run_dir.signals_done.iterdir()] == ["stop-0000003.json"]
    lookout.close()


class SlowMailbox:
    """A folder on a disk that answers late."""

    def __init__(self) -> None:
        self.looks = 0

    def poll(self) -> list[object]:
        self.looks += 1
        time.sleep(0.05)
        return []


def test_a_slow_folder_is_looked_into_less_often() -> None:
    mailbox = SlowMailbox()
    lookout = Lookout(mailbox)  # type: ignore[arg-type]  # as much of one as it uses
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        lookout.take()
        time.sleep(0.001)
    lookout.close()
    assert 1 <= mailbox.looks <= 3, "a look of 50 ms is followed by a pause of 950 ms"


class BrokenMailbox:
    """A mailbox with a fault of ours."""

    def poll(self) -> list[object]:
        raise KeyError("a fault")


def test_a_fault_ends_training_and_not_only_the_look() -> None:
    lookout = Lookout(BrokenMailbox())  # type: ignore[arg-type]  # as much of one as it uses
    with pytest.raises(KeyError, match="a fault"):
        kinds_found(lookout, lambda found: bool(found))
    lookout.close()
