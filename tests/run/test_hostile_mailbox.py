"""A mailbox in which anything may lie: no name and no number of files keeps a command from being heard."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from harness.run.commands import mailbox as module
from harness.run.commands.mailbox import MAX_FILES_PER_POLL, MAX_READ_PER_POLL, Mailbox
from harness.run.paths import RunDir
from harness.text import is_unicode

SAVE = '{"kind": "save"}'


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    run_dir = RunDir(tmp_path)
    run_dir.make_folders()
    return run_dir


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", [b"\xff.json", b"\xff", b"a\xc3.json", b"\xed\xa0\x80.json"])
def test_a_command_whose_name_is_no_text_is_rejected_under_a_safe_name(run_dir: RunDir, name: bytes) -> None:
    (run_dir.signals / os.fsdecode(name)).write_text(SAVE)
    assert Mailbox(run_dir).poll() == []
    assert names(run_dir.signals) == ["done", "rejected"]
    kept, reason = names(run_dir.signals_rejected)
    assert is_unicode(kept)
    assert kept.isprintable()
    assert (reason, (run_dir.signals_rejected / kept).read_text()) == (f"{kept}.reason", SAVE)
    assert "its name is not UTF-8" in (run_dir.signals_rejected / reason).read_text()


def test_names_that_act_on_a_terminal_are_safe_among_the_rejected(run_dir: RunDir) -> None:
    (run_dir.signals / "\x1b[31m\n\u202ered").touch()
    Mailbox(run_dir).poll()
    assert names(run_dir.signals_rejected)[0] == r"\u001b[31m\n\u202ered"


@pytest.mark.parametrize("folder", ["done", "rejected"])
def test_odd_names_in_the_folders_of_answers_disturb_nobody(run_dir: RunDir, folder: str) -> None:
    place = run_dir.signals / folder
    for name in (b"\xff.json", b"\xff.json.tmp", b"\xff.json.partial", b"a\nb-0000001.json.tmp"):
        (place / os.fsdecode(name)).write_text("{")
    (place / "folder.json.tmp").mkdir()
    (place / "save-0000007.json").mkdir()
    box = Mailbox(run_dir)
    (run_dir.signals / "save").touch()
    (command,) = box.poll()
    done = box.acknowledge(command, {"step": 7})
    assert done is not None
    assert done.name in ("save-0000007.json", "save-0000007-2.json")


@pytest.mark.parametrize("length", [200, 234, 250, 255])
def test_a_command_with_a_long_name_is_acknowledged_and_not_found_again(run_dir: RunDir, length: int) -> None:
    name = "x" * (length - 5) + ".json"
    (run_dir.signals / name).write_text('{"kind": "save-and-stop"}')
    box = Mailbox(run_dir)
    (command,) = box.poll()
    done = box.acknowledge(command, {"step": 5})
    assert done is not None
    assert done.name.startswith("x" * 100)
    assert done.name.endswith("-0000005.json")
    assert json.loads(done.read_text())["source"] == name
    assert Mailbox(run_dir).poll() == []


def test_long_names_with_the_same_beginning_stay_apart(run_dir: RunDir) -> None:
    for number in range(MAX_FILES_PER_POLL):
        (run_dir.signals / f"{'ä' * 110}{number}").touch()
    Mailbox(run_dir).poll()
    kept = [name for name in names(run_dir.signals_rejected) if not name.endswith(".reason")]
    assert len({name.rpartition("-")[2] for name in kept}) == MAX_FILES_PER_POLL
    assert all(len(name.encode()) <= 150 for name in kept)


@pytest.mark.parametrize("age_s", [0, 3600], ids=["newest", "oldest"])
def test_a_valid_command_is_heard_among_ten_thousand_invalid_ones(run_dir: RunDir, age_s: int) -> None:
    for number in range(10_000):
        (run_dir.signals / f"{number}.json").write_text("{")
    valid = run_dir.signals / "valid.json"
    valid.write_text(SAVE)
    changed = time.time() + 1 - age_s
    os.utime(valid, (changed, changed))
    box = Mailbox(run_dir)
    num_polls = 1 if age_s == 0 else 10_000 // MAX_READ_PER_POLL + 1
    heard = [command.source for _ in range(num_polls) for command in box.poll()]
    assert heard == ["valid.json"]


def test_the_work_of_a_poll_is_bounded(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3 * MAX_READ_PER_POLL):
        (run_dir.signals / f"{number}.json").write_text(SAVE if number % 2 else "{")
    looked: list[Path] = []
    real = module.read_own_file
    monkeypatch.setattr(
        module, "read_own_file", lambda path, max_bytes: (looked.append(path), real(path, max_bytes=max_bytes))[1]
    )
    box = Mailbox(run_dir)
    for _ in range(3):
        looked.clear()
        assert len(box.poll()) <= MAX_FILES_PER_POLL
        assert len(looked) <= MAX_READ_PER_POLL


def test_plain_names_are_heard_beyond_the_names_that_a_poll_lists(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LISTED_PER_POLL", 10)
    for number in range(100):
        (run_dir.signals / f"{number}.json").write_text("{")
    (run_dir.signals / "stop").touch()
    box = Mailbox(run_dir)
    assert [command.source for command in box.poll()] == ["stop"]
    assert box.poll() == []  # it is not handed out twice, though the listing may not show it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a file to another user")
def test_files_of_others_neither_count_nor_stand_before_a_command(run_dir: RunDir) -> None:
    for number in range(2000):
        path = run_dir.signals / f"{number}.json"
        path.write_text('{"kind": "stop"}')
        os.chown(path, 65534, -1)
    (run_dir.signals / "mine.json").write_text(SAVE)
    os.utime(run_dir.signals / "mine.json", (1, 1))
    assert [command.source for command in Mailbox(run_dir).poll()] == ["mine.json"]
