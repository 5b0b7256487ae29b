from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.commands.mailbox import MAX_COMMAND_BYTES, MAX_FILES_PER_POLL, UNFINISHED_S, Mailbox
from harness.run.commands.requests import make_request
from harness.run.paths import RunDir

NOW = 1000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def mailbox(run_dir: RunDir, monotonic: Clock | None = None) -> Mailbox:
    return Mailbox(run_dir, clock=Clock(), monotonic=monotonic or Clock())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def rejected(run_dir: RunDir) -> dict[str, str]:
    """Reasons by name of what was moved away."""
    folder = run_dir.signals_rejected
    return {path.stem: path.read_text().strip() for path in folder.glob("*.reason")}


def test_an_empty_mailbox_has_no_orders_and_makes_its_folders(run_dir: RunDir) -> None:
    assert mailbox(run_dir).poll() == []
    assert names(run_dir.signals) == ["done", "rejected"]


def test_an_order_is_handed_out_once_and_stays_until_it_is_acknowledged(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").touch()
    (command,) = box.poll()
    assert (command.kind, command.source) == (CommandKind.SAVE, "save")
    assert box.poll() == []
    assert (run_dir.signals / "save").exists()
    done = box.acknowledge(command, {"step": 120, "path": run_dir.checkpoint(120), "seconds": 1.5})
    assert done == run_dir.signals_done / "save-0000120.json"
    assert json.loads(done.read_text()) == {
        "kind": "save",
        "reason": "",
        "source": "save",
        "time": NOW,
        "step": 120,
        "path": str(run_dir.checkpoint(120)),
        "seconds": 1.5,
    }
    assert names(run_dir.signals) == ["done", "rejected"]
    assert names(run_dir.signals_done) == ["save-0000120.json"]


def test_the_same_order_can_be_given_again_even_at_the_same_step(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    for expected in ("save-0000120.json", "save-0000120-2.json", "save-0000120-3.json"):
        (run_dir.signals / "save").touch()
        (command,) = box.poll()
        done = box.acknowledge(command, {"step": 120})
        assert done is not None
        assert done.name == expected
        assert box.poll() == []


def test_acknowledging_twice_does_nothing_and_takes_no_later_order_away(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").touch()
    (command,) = box.poll()
    done = box.acknowledge(command, {"step": 1})
    (run_dir.signals / "save").touch()
    assert box.acknowledge(command, {"step": 2}) == done
    assert names(run_dir.signals_done) == ["save-0000001.json"]
    assert len(box.poll()) == 1


def test_an_order_withdrawn_and_given_anew_meanwhile_is_not_swallowed(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    file = run_dir.signals / "save"
    file.touch()
    (command,) = box.poll()
    file.rename(run_dir.root / "kept")  # keeps its inode from being used again
    file.touch()
    assert box.acknowledge(command, {"step": 1}) is not None
    assert [again.source for again in box.poll()] == ["save"]


def test_a_crash_before_the_acknowledgement_loses_no_order(run_dir: RunDir) -> None:
    (run_dir.signals).mkdir()
    (run_dir.signals / "stop").touch()
    assert len(mailbox(run_dir).poll()) == 1
    assert len(mailbox(run_dir).poll()) == 1


@pytest.mark.parametrize("moves_before_the_crash", [0, 1])
def test_a_crash_within_the_acknowledgement_leaves_the_order_either_there_or_done(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, moves_before_the_crash: int
) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "stop").touch()
    (command,) = box.poll()
    real_replace, moves = Path.replace, [0]

    def replace(path: Path, target: Path) -> Path:
        if moves[0] == moves_before_the_crash:
            raise KeyboardInterrupt
        moves[0] += 1
        return real_replace(path, target)

    with monkeypatch.context() as dying:
        dying.setattr(Path, "rename", replace)
        dying.setattr(Path, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            box.acknowledge(command, {"step": 5})
    again = mailbox(run_dir).poll()
    done = {name: (run_dir.signals_done / name).read_text() for name in names(run_dir.signals_done)}
    if moves_before_the_crash == 0:
        assert [command.kind for command in again] == [CommandKind.STOP]
        assert done == {}
    else:
        assert again == []
        assert list(done) == ["stop-0000005.json"]
        assert json.loads(done["stop-0000005.json"])["step"] == 5


def test_an_acknowledgement_follows_no_link_at_its_place(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "stop").touch()
    (command,) = box.poll()
    precious = run_dir.root / "precious"
    precious.write_text("kept")
    (run_dir.signals_done / "stop-0000005.json.partial").symlink_to(precious)
    done = box.acknowledge(command, {"step": 5})
    assert (precious.read_text(), done is not None and done.is_symlink()) == ("kept", False)


def test_an_acknowledgement_is_on_disk_before_it_gets_its_name(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "stop").touch()
    (command,) = box.poll()
    known: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (known.append(os.fstat(descriptor).st_ino), real(descriptor)))
    done = box.acknowledge(command, {"step": 5})
    assert done is not None
    assert known == [done.stat().st_ino, done.parent.stat().st_ino]


def test_orders_that_came_as_signals_are_acknowledged_too(run_dir: RunDir) -> None:
    command = Command(
        request=make_request(CommandKind.SAVE, {}), reason="received SIGUSR1", source="SIGUSR1", id="SIGUSR1#1"
    )
    done = mailbox(run_dir).acknowledge(command, {"seconds": 2})
    assert done == run_dir.signals_done / "SIGUSR1-1000.000.json"
    assert json.loads(done.read_text())["seconds"] == 2


def test_a_disk_that_refuses_the_acknowledgement_stops_nothing(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").touch()
    (command,) = box.poll()

    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk_is_full:
        disk_is_full.setattr(os, "write", full)
        assert box.acknowledge(command, {"step": 1}) is None
        assert box.poll() == []
    assert names(run_dir.signals_done) == []
    assert box.poll() == []  # there is room again
    assert names(run_dir.signals_done) == ["save-0000001.json"]
    assert not (run_dir.signals / "save").exists()


def test_plainly_named_orders_come_first_and_json_names_may_be_anything(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "a b\n.json").write_text('{"kind": "save", "reason": "r"}')
    (run_dir.signals / "stop").touch()
    commands = box.poll()
    assert [command.kind for command in commands] == [CommandKind.STOP, CommandKind.SAVE]
    done = box.acknowledge(commands[1], {"step": 3})
    assert done is not None
    assert done.name == "a b\n-0000003.json"


def test_files_being_written_and_hidden_files_are_passed_over(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    for name in ("x.tmp", "save.tmp", ".nfs0001", ".save.swp"):
        (run_dir.signals / name).write_text("?")
    assert box.poll() == []
    assert names(run_dir.signals) == [".nfs0001", ".save.swp", "done", "rejected", "save.tmp", "x.tmp"]


def test_a_file_that_is_no_order_is_moved_away_with_the_reason(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "sav").touch()
    assert box.poll() == []
    assert names(run_dir.signals) == ["done", "rejected"]
    assert names(run_dir.signals_rejected) == ["sav", "sav.reason"]
    assert rejected(run_dir)["sav"].endswith("did you mean `save`?")
    (run_dir.signals / "sav").touch()
    box.poll()
    assert names(run_dir.signals_rejected) == ["sav", "sav-2", "sav-2.reason", "sav.reason"]


def test_broken_json_is_given_time_to_be_finished(run_dir: RunDir) -> None:
    clock = Clock()
    box = mailbox(run_dir, clock)
    file = run_dir.signals / "x.json"
    file.write_text('{"kind"')
    assert box.poll() == []
    clock.now += UNFINISHED_S / 2
    file.write_text('{"kind": "save"}')
    assert [command.kind for command in box.poll()] == [CommandKind.SAVE]

    broken = run_dir.signals / "y.json"
    broken.write_text('{"kind"')
    assert box.poll() == []
    assert broken.exists()
    clock.now += UNFINISHED_S
    assert box.poll() == []
    assert rejected(run_dir)["y.json"].startswith("not JSON: ")


def test_a_file_that_is_too_large_is_rejected(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").write_bytes(b"x" * (MAX_COMMAND_BYTES + 1))
    assert box.poll() == []
    assert rejected(run_dir) == {"save": "larger than 64 KiB; a command is a line or two"}


def test_a_symbolic_link_is_rejected_and_its_target_untouched(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    target = run_dir.root / "target"
    target.write_text("secret")
    (run_dir.signals / "save").symlink_to(target)
    (run_dir.signals / "stop").symlink_to(run_dir.root / "nowhere")
    assert box.poll() == []
    assert rejected(run_dir) == dict.fromkeys(("save", "stop"), "a symbolic link, not a regular file")
    assert target.read_text() == "secret"
    assert (run_dir.signals_rejected / "save").is_symlink()


def test_a_directory_is_rejected(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save" / "inside").mkdir(parents=True)
    assert box.poll() == []
    assert rejected(run_dir) == {"save": "a directory, not a regular file"}


@pytest.mark.timeout(20)
def test_a_named_pipe_is_rejected_without_waiting_for_a_writer(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    os.mkfifo(run_dir.signals / "save")
    assert box.poll() == []
    assert rejected(run_dir) == {"save": "a named pipe, not a regular file"}


def test_a_hard_link_is_rejected(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.root / "mine").touch()
    (run_dir.signals / "save").hardlink_to(run_dir.root / "mine")
    assert box.poll() == []
    assert rejected(run_dir)["save"].startswith("a second name of another file (a hard link)")


def test_a_file_of_another_user_is_rejected(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "stop").touch()
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert box.poll() == []
    assert rejected(run_dir) == {"stop": f"belongs to user {owner}; commands come from the user who trains"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_rejected(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").touch(mode=0)
    assert box.poll() == []
    assert rejected(run_dir) == {"save": "cannot be read: Permission denied"}


def test_what_cannot_be_moved_away_is_looked_at_only_once(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "sav").touch()
    attempts = []

    def refuse(path: Path, target: Path) -> Path:
        attempts.append(path)
        raise PermissionError

    monkeypatch.setattr(Path, "rename", refuse)
    assert [box.poll() for _ in range(3)] == [[], [], []]
    assert len(attempts) == 1


def test_thousands_of_files_neither_stall_a_step_nor_hide_an_order(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    for number in range(3000):
        (run_dir.signals / f"junk-{number}").touch()
    (run_dir.signals / "save").touch()
    assert [command.source for command in box.poll()] == ["save"]
    assert len(rejected(run_dir)) == MAX_FILES_PER_POLL - 1
    polls = 1
    while len(names(run_dir.signals)) > len(["done", "rejected", "save"]):
        assert box.poll() == []
        polls += 1
    assert polls <= 3000 // MAX_FILES_PER_POLL + 2


def test_names_that_are_no_text_and_very_long_names_are_rejected(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / os.fsdecode(b"\xff\xfe")).touch()
    (run_dir.signals / ("x" * 255)).touch()
    assert box.poll() == []
    assert names(run_dir.signals) == ["done", "rejected"]
    assert len(names(run_dir.signals_rejected)) == 4


def test_a_mailbox_that_is_gone_has_no_orders(run_dir: RunDir) -> None:
    box = mailbox(run_dir)
    for folder in (run_dir.signals_done, run_dir.signals_rejected, run_dir.signals):
        folder.rmdir()
    assert box.poll() == []


def test_a_file_that_vanishes_while_it_is_looked_at_is_no_order(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = mailbox(run_dir)
    (run_dir.signals / "save").touch()
    real_open = os.open

    def withdraw(path: Path, flags: int) -> int:
        path.unlink()
        return real_open(path, flags)

    monkeypatch.setattr(os, "open", withdraw)
    assert box.poll() == []
    assert names(run_dir.signals_rejected) == []


def test_a_command_to_come_back_that_is_older_than_the_launch_was_carried_out_by_it(run_dir: RunDir) -> None:
    mailbox(run_dir)
    for name, given in (("save-and-stop", 500.0), ("save", 500.0), ("stop", 500.0), ("new.json", 1001.0)):
        (run_dir.signals / name).write_text('{"kind": "save-and-stop"}' if name == "new.json" else "")
        os.utime(run_dir.signals / name, (given, given))
    found = Mailbox(run_dir, begun=NOW).poll()
    assert sorted(command.source for command in found) == ["new.json", "save", "stop"]
    assert rejected(run_dir)["save-and-stop"].startswith("it was given before this launch began, and would end it at")
