"""A state of the watcher that cannot be believed: it begins anew, says so, and spends no budget twice."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from stand_in import ONSET, StandIn, keep, run_dir_in, watcher

from harness import cli
from harness.run.commands.kinds import CommandKind
from harness.watch.saved_state import LostStateError, WatchState, load_state, save_state


def watched_run(folder: Path) -> StandIn:
    run = StandIn(run_dir_in(folder), changes={"least_free_gib": 0, "action": "alert"})
    run.train(60)
    return run


def test_no_flipped_bit_is_believed_and_none_ends_the_watcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = watched_run(tmp_path)
    root, path = str(run.run_dir.root), run.run_dir.watch_state
    assert cli.run(["watch", root, "--once"]) == 0
    whole = path.read_bytes()
    expected = json.loads(whole)["memory"]
    chosen = random.Random(7)
    for number in range(300):
        flipped = bytearray(whole)
        flipped[chosen.randrange(len(whole))] ^= 1 << chosen.randrange(8)
        path.write_bytes(flipped)
        try:
            state = load_state(path)
        except LostStateError:
            if number % 30 == 0:
                capsys.readouterr()
                assert cli.run(["watch", root, "--once"]) == 0
                assert "It begins anew" in capsys.readouterr().out
                assert json.loads(path.read_bytes())["memory"]["step"] == 60
        else:  # a space became a newline
            assert state is not None
            save_state(path, state)
            assert json.loads(path.read_bytes())["memory"] == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read: Expecting value"),
        (b"\0" * 100, "cannot be read: "),
        (b'{"format": 1, "memory": {}}', "is not of format 2"),
        (b'{"format": 3, "digest": "", "memory": {}}', "is not of format 2"),
        (b'{"format": 2, "memory": {}}', "has changed since it was written"),
        (b"[" * 100_000, "cannot be read: nested deeper"),
        (b"\xff\xfe", "cannot be read: not UTF-8"),
    ],
)
def test_a_state_that_cannot_be_used_is_kept_aside_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    run = watched_run(tmp_path)
    path = run.run_dir.watch_state
    path.write_bytes(content)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
    told = capsys.readouterr().out
    assert f"warning: the memory of the watcher, {path}, {reason}" in told
    assert f"the file is kept as {path}.unusable" in told
    assert path.with_name("state.json.unusable").read_bytes() == content
    (alert,) = [json.loads(line) for line in run.run_dir.watch_alerts.read_text().splitlines()]
    assert (alert["kind"], reason in alert["text"]) == ("watcher", True)
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
    assert "anew" not in capsys.readouterr().out


def test_the_state_of_another_detector_is_lost_too(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    save_state(path, WatchState(detector='{"format": 0, "state": {}}'))
    with pytest.raises(LostStateError, match="cannot be read: not the state of a detector"):
        load_state(path)


@pytest.mark.parametrize("lost_event", ["rollback", "rollback-ordered", None])
def test_rollbacks_count_against_the_budget_though_the_state_is_lost(tmp_path: Path, lost_event: str | None) -> None:
    """Each of a rollback's two lines in the events is enough."""
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 60), changes={"max_rollbacks": 1})
    while run.attempt == 0:
        run.train(4)
        watching = watcher(run)
        watching.look()
        keep(run, watching)
    assert len(run.commands(CommandKind.ROLLBACK)) == 1
    before = dict(watching.state.causes)
    run.run_dir.watch_state.unlink()
    lines = run.run_dir.events.read_text().splitlines(keepends=True)
    run.run_dir.events.write_text("".join(line for line in lines if json.loads(line)["kind"] != lost_event))
    anew = watcher(run)
    anew.look()
    assert list(anew.state.causes) == list(before)
    run.dirty = range(run.step + 200, run.step + 400)
    run.skipped = (0, 0)
    while run.exit_code is None and run.attempt == 1 and run.step < 1900:
        run.train(4)
        anew.look()
    assert (run.exit_code, run.attempt) == (76, 1), "a second rollback is beyond the budget"
