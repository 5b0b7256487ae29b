"""The loop around the looks: alone, with a sign of life, until the run has ended."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from stand_in import ONSET, StandIn, run_dir_in

from harness import cli
from harness.alerts import desk
from harness.alerts.addresses import Delivery
from harness.alerts.alert import Message
from harness.alerts.book import Place
from harness.alerts.book_file import read_book
from harness.alerts.delivery import UndeliveredError
from harness.errors import RunInUseError, UsageError
from harness.run.follow import Mark, new_lines
from harness.run.paths import RunDir
from harness.run.watcher_presence import is_watched
from harness.watch import daemon
from harness.watch.daemon import watch
from harness.watch.saved_state import load_state
from harness.watch.surroundings import shortage


def look(run_dir: RunDir, *, once: bool = True, told: list[str] | None = None) -> None:
    watch(run_dir, once=once, may_command=True, alert_urls=(), show=(told if told is not None else []).append)


def test_one_look_at_a_time_goes_on_from_the_last(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 60), changes={"least_free_gib": 0})
    for _ in range(160):
        run.train(4)
        look(run.run_dir)
    assert run.attempt == 1
    state = load_state(run.run_dir.watch / "state.json")
    assert state is not None
    assert state.step == run.step


def test_it_ends_when_training_has_ended(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"poll_s": 0.01, "least_free_gib": 0})
    run.train(50)
    run.event("exit", exit_code=0, reason="all steps are done")
    told: list[str] = []
    look(run.run_dir, once=False, told=told)
    assert told[-1] == "training has ended at step 50 with exit code 0"
    assert json.loads((run.run_dir.watch / "heartbeat.json").read_text())["pid"] > 0


def test_what_nobody_has_taken_is_sent_once_more_when_training_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ["no", "no", "yes", "yes"]
    taken: list[str] = []

    def place(message: Message) -> None:
        if answers.pop(0) == "no":
            raise UndeliveredError("mail: refused")
        taken.append(message.alert.text)

    places = [Delivery(place=Place("mail"), deliver=place)]
    monkeypatch.setattr(desk, "deliveries", lambda *settings: places)
    run = StandIn(run_dir_in(tmp_path), changes={"poll_s": 0.01, "least_free_gib": 0}, begun=time.time())
    run.train(5)
    look(run.run_dir)
    run.event("save-failed", reason="the disk is full")
    run.event("exit", exit_code=70, reason="a bug")
    look(run.run_dir)
    assert answers == ["yes", "yes"]  # when it was seen, and once more at the end of the only look
    assert taken == []
    look(run.run_dir, once=False)
    assert taken == [
        "the run has ended, and does not come back by itself: a bug",
        "the run has ended. It was: the checkpoint could not be saved: the disk is full",
    ]
    assert read_book(run.run_dir.alert_book).waiting == []


def test_a_second_watcher_is_refused(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    with daemon._holding_lock(run.run_dir), pytest.raises(RunInUseError, match="is being watched already"):
        look(run.run_dir)


def test_what_is_no_run_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory: there is no config.yaml in it"):
        look(RunDir(tmp_path))


def test_a_damaged_memory_is_a_fresh_start(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    run.train(10)
    for text in ("", "{", '{"format": 99}', '{"format": 1, "memory": {"step": "x"}}'):
        (run.run_dir.watch / "state.json").write_text(text)
        look(run.run_dir)
        state = load_state(run.run_dir.watch / "state.json")
        assert state is not None
        assert state.step == 10


def test_a_full_disk_is_told(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"least_free_gib": 1e9})
    assert "less than watch.least_free_gib 1e+09" in str(shortage(run.run_dir, run.config.watch))


def test_lines_are_followed_through_halves_zeros_and_replacement(tmp_path: Path) -> None:
    path, mark = tmp_path / "x.jsonl", Mark()
    assert list(new_lines(path, mark)) == []
    path.write_bytes(b"a\nbb\nhal")
    assert list(new_lines(path, mark)) == [b"a", b"bb"]
    assert list(new_lines(path, mark)) == []
    path.write_bytes(b"a\nbb\nhalf\n\0\0\0\n")
    assert list(new_lines(path, mark)) == [b"half"]
    assert list(new_lines(path, mark)) == []  # there in size, not yet in content
    path.write_bytes(b"a\nbb\nhalf\nnow\n")
    assert list(new_lines(path, mark)) == [b"now"]
    path.write_bytes(b"new\n")
    assert list(new_lines(path, mark)) == [b"new"]


def test_a_look_leaves_a_run_to_the_watcher_that_it_has(tmp_path: Path) -> None:
    run, told = StandIn(run_dir_in(tmp_path)), []
    beat = {"time": round(time.time(), 3), "host": "n7", "pid": 4711, "step": 1, "may_order": True}
    run.run_dir.watch_heartbeat.write_text(json.dumps(beat))
    look(run.run_dir, told=told)
    assert told == [f"{run.run_dir.root} is watched: process 4711 on n7"]
    assert load_state(run.run_dir.watch_state) is None
    run.run_dir.watch_heartbeat.write_text(json.dumps(beat | {"time": round(time.time() - 61, 3)}))
    look(run.run_dir)
    assert load_state(run.run_dir.watch_state) is not None


def test_a_watcher_that_leaves_says_so(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"poll_s": 0.01, "least_free_gib": 0})
    run.train(5)
    run.event("exit", exit_code=0, reason="all steps are done")
    look(run.run_dir, once=False)
    beat = json.loads(run.run_dir.watch_heartbeat.read_text())
    assert beat["has_left"] and not is_watched(run.run_dir)
    run.run_dir.watch_heartbeat.write_text(json.dumps(beat | {"pid": 4711}))
    told: list[str] = []
    look(run.run_dir, told=told)
    assert "is watched" not in " ".join(told)


def test_one_look_at_all_runs_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [StandIn(RunDir(tmp_path / "runs" / name), changes={"least_free_gib": 0}) for name in ("a", "b", "c")]
    for run in runs:
        run.train(3)
    (runs[1].run_dir.root / "config.yaml").write_text("run: {}")
    assert cli.run(["watch", str(tmp_path / "runs"), "--once"]) == 70
    seen = capsys.readouterr()
    assert "1 of 3 runs could not be looked at: " in seen.err
    assert f"watching {runs[2].run_dir.root}" in seen.out
    states = [load_state(run.run_dir.watch_state) for run in runs]
    assert [None if state is None else state.step for state in states] == [3, None, 3]
    assert cli.run(["watch", str(runs[0].run_dir.root), str(runs[2].run_dir.root)]) == 64
    assert "2 runs are named; a watcher watches one, and looks at several with --once" in capsys.readouterr().err
