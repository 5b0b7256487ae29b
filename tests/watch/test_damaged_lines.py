"""Damaged lines in the files of a run, before the public commands: none is half used, and none ends a command."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import pytest
from damaged_json import broken, damaged, without
from stand_in import StandIn, run_dir_in

from harness import cli
from harness.run.event_base import StepEvent
from harness.run.event_fields import NamedDocuments
from harness.run.event_types import Attributed, Exit, PhaseBegun, RolledBack, Seen
from harness.run.events import event_line
from harness.run.heartbeats import Activity, Beat, beat_to_json, read_beats
from harness.run.launches import LAUNCH, LaunchStart, read_launch_file
from harness.run.paths import RunDir
from harness.run.records import to_json_line
from harness.run.resume_failures import failures_of
from harness.run.watcher_presence import is_watched, write_watcher_beat

EVENTS: tuple[StepEvent, ...] = (
    Exit(attempt=0, step=300, exit_code=76, reason="time"),
    RolledBack(attempt=7, step=3, command="watch-rollback-000-0000003", from_step=4, skip_windows=((1, 2),)),
    Seen(kind="spike", attempt=0, step=3, channel="en", direction="up", start=1, end=2, z=1.0, height=1.0),
    Attributed(
        attempt=0, step=3, start=2, channel="en", dirty=True, reason="r", evidence="e",
        documents=(NamedDocuments(channel="en", part="p", documents=(1,)),),
    ),
    PhaseBegun(
        attempt=0, step=3, phase="b", before="a", seq_length=8, global_batch_size=4, shares={"en": 1.0},
        rotary_base=1e4, same_processes=True,
    ),
)  # fmt: skip
CLOCK = re.compile(r"^\d\d:\d\d:\d\d |^time .*$|\"([a-z]+_s|step_age_s|goodput)\": [0-9.]+", re.MULTILINE)


@pytest.fixture
def run(tmp_path: Path) -> StandIn:
    """A run of 200 steps that was launched."""
    stand_in = StandIn(run_dir_in(tmp_path), changes={"least_free_gib": 0, "action": "alert"})
    stand_in.train(200)
    launch = stand_in.run_dir.launch(1)
    (launch / LAUNCH).write_text('{"world_size": 1}')
    return stand_in


def answers(run_dir: RunDir, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the commands that read a run print, and what the watcher remembers of it."""
    root = str(run_dir.root)
    found = []
    run_dir.watch_state.unlink(missing_ok=True)
    for arguments in (["status", root, "--json"], ["status", root], ["replay", root], ["watch", root, "--once"]):
        assert cli.run(arguments) == 0, capsys.readouterr().err
        found.append(CLOCK.sub("", capsys.readouterr().out))
    memory = json.loads(run_dir.watch_state.read_text())["memory"]
    return [*found, json.dumps({name: value for name, value in memory.items() if name not in ("metrics", "events")})]


def mix(lines: Sequence[bytes], bad: Sequence[bytes]) -> bytes:
    """The lines with the damaged ones strewn between all but the last of them."""
    share = -(-len(bad) // (len(lines) - 1))
    mixed = ([line, *bad[number * share : (number + 1) * share]] for number, line in enumerate(lines))
    return b"".join(line + b"\n" for line in chain.from_iterable(mixed))


def test_damaged_records_change_no_answer(run: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    path = run.run_dir.metrics
    fields = json.loads(to_json_line(run.record())) | {"positions": [[1, 2]]}
    required = ("attempt", "step", "time", "phase", "consumed_samples", "consumed_tokens", "data/batch_hash")
    bad = [*damaged(fields), *without(fields, required), *broken(json.dumps(fields).encode())]
    expected = answers(run.run_dir, capsys)
    path.write_bytes(mix(path.read_bytes().splitlines(), bad))
    assert answers(run.run_dir, capsys) == expected


def test_damaged_events_change_no_answer(run: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        run.event("saved", path=f"p{number}", seconds=1)
    every = [json.loads(event_line(event, 5.0)) for event in EVENTS]
    bad = [line for fields in every for line in (*damaged(fields), *without(fields, ("kind", "attempt", "step")))]
    bad = [line for line in bad if b'"exit_code": -1,' not in line]  # ended by a signal
    bad += broken(json.dumps(every[0]).encode())
    expected = answers(run.run_dir, capsys)
    assert "p4" in expected[0]
    path = run.run_dir.events
    path.write_bytes(mix(path.read_bytes().splitlines(), bad))
    assert answers(run.run_dir, capsys) == expected


def test_damaged_records_of_failed_starts_count_for_nothing(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    failure = {"checkpoint": "step_0000040", "start": "a", "rank": 0, "reason": "boom"}
    bad = [*without(failure, ("checkpoint", "start", "reason")), *broken(json.dumps(failure).encode())]
    bad += [line for line in damaged(failure) if b'"rank": 0' in line]
    run_dir.resume_failures.write_bytes(mix([json.dumps(failure).encode()] * 2, bad))
    assert failures_of(run_dir, "step_0000040") == ["boom"]


def test_damaged_heartbeats_and_launches_are_none(run: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    beat = Beat(
        rank=0, host="a", pid=1, step=3, activity=Activity.DATA, since=5.0, time=6.0, spent_s={"data": 1.0},
        compute_ms=1.0,
    )  # fmt: skip
    start = LaunchStart(started="now", host="a", pid=1, world_size=2, newest_checkpoint=(0, 5))
    path, launch = run.run_dir.heartbeat(0), run.run_dir.launch(1) / LAUNCH
    for content in (*damaged(beat_to_json(beat)), *broken(json.dumps(beat_to_json(beat)).encode())):
        path.write_bytes(content)
        assert list(read_beats(run.run_dir)) == []
    fields = start.model_dump(mode="json", exclude_unset=True)
    for content in (*damaged(fields), *broken(json.dumps(fields).encode())):
        launch.write_bytes(content)
        assert read_launch_file(launch, LaunchStart) is None, content
    path.write_text(json.dumps(beat_to_json(beat)))
    launch.write_text('{"world_size": 9007199254740992}')
    for verb in ("status", "diagnose"):
        assert cli.run([verb, str(run.run_dir.root)]) in (0, 64)
        assert "Traceback" not in capsys.readouterr().err


def test_the_heartbeat_of_another_rank_is_not_taken_for_a_ranks_own(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.heartbeats.mkdir()
    fields = {"rank": 3, "host": "a", "pid": 1, "step": 3, "phase": "data", "since": 5.0, "time": 6.0, "spent_s": {}}
    run_dir.heartbeat(3).write_text(json.dumps(fields))
    run_dir.heartbeat(4).write_text(json.dumps(fields))
    assert [beat.rank for beat in read_beats(run_dir)] == [3]


def test_a_damaged_heartbeat_of_the_watcher_is_no_watcher(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.watch.mkdir()
    write_watcher_beat(run_dir, step=3, may_command=True)
    assert is_watched(run_dir)
    beat = json.loads(run_dir.watch_heartbeat.read_text())
    for content in (*damaged({"time": beat["time"]}), *broken(json.dumps(beat).encode())):
        run_dir.watch_heartbeat.write_bytes(content)
        assert not is_watched(run_dir)


def test_times_and_rates_that_no_run_has_are_shown_as_such(run: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    """Every field fits its type, and what follows from them together is beyond any calendar."""
    lines = run.run_dir.metrics.read_text().splitlines()
    late = [json.loads(line) | {"time": 2e11 * number} for number, line in enumerate(lines[-2:])]
    run.run_dir.metrics.write_text("".join(json.dumps(each) + "\n" for each in late))
    assert cli.run(["status", str(run.run_dir.root)]) == 0
    assert "more than a thousand years" in capsys.readouterr().out
    run.run_dir.metrics.write_text("".join(json.dumps(each) + "\n" for each in reversed(late)))
    assert cli.run(["status", str(run.run_dir.root)]) == 0
    assert "time left" not in capsys.readouterr().out


def test_a_loss_that_no_model_has_is_not_finite(run: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(to_json_line(run.record()))
    for step, loss in ((201, 1e300), (202, -1e300), (203, 2.0)):
        line = record | {"step": step, "train/lm_loss": loss, "train/lm_loss/en": loss, "train/tokens/en": 1e-300}
        with run.run_dir.metrics.open("a") as file:
            file.write(json.dumps(line) + "\n")
    assert cli.run(["replay", str(run.run_dir.root)]) == 0
    assert "non-finite" in capsys.readouterr().out
    assert cli.run(["watch", str(run.run_dir.root), "--once"]) == 0
