"""Where the time of a run went."""

from __future__ import annotations

import json
import os
import random
from functools import partial
from pathlib import Path

import pytest
from counted import instructions_of
from run_samples import untrained_run

from harness import cli
from harness.run.event_types import Exit, Resumed, RolledBack, Started
from harness.run.events import append_event
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.run_state.goodput import Session, TimeSpent, sessions_of, time_spent
from harness.run_state.records_by_time import last_record_before

BEGIN = 1_700_000_000.0


def session(
    asked: float, begun: float, trained: float | None, ended: float, first: int, last: int, back: int = 0
) -> Session:
    return Session(
        asked=asked, begun=begun, trained_from=trained, ended=ended, first_step=first, last_step=last, rolled_back=back
    )


@pytest.mark.parametrize(
    ("sessions", "waited", "started", "repeated", "goodput"),
    [
        ([], 0, 0, 0, None),
        ([session(0, 0, 0, 100, 0, 10)], 0, 0, 0, 1.0),
        ([session(0, 30, 40, 100, 0, 10)], 30, 10, 0, 0.6),
        # 4 of 10 steps of the first launch had not been saved.
        ([session(0, 0, 0, 100, 0, 10), session(100, 150, 160, 200, 6, 10)], 50, 10, 40, 0.5),
        # A launch that never came to a step counts as a start, and the steps are lost to the one behind it.
        (
            [session(0, 0, 0, 100, 0, 10), session(100, 100, None, 150, 0, 0), session(150, 150, 150, 200, 5, 10)],
            0, 50, 50, 0.5,
        ),
        # 20 steps were made, and a rollback left 10 of them behind.
        ([session(0, 0, 0, 100, 0, 10, 10)], 0, 0, 50, 0.5),
    ],
)  # fmt: skip
def test_time_is_what_counts_and_what_is_lost(
    sessions: list[Session], waited: float, started: float, repeated: float, goodput: float | None
) -> None:
    spent = time_spent(sessions)
    assert (spent.waited_s, spent.started_s, spent.repeated_s) == (waited, started, repeated)
    assert spent.goodput == (goodput if goodput is None else pytest.approx(goodput))
    assert spent.trained_s + waited + started + repeated == pytest.approx(spent.total_s)


def record(step: int, time: float) -> str:
    return to_json_line(
        StepRecord(
            attempt=0, step=step, time=time, phase="main", consumed_samples=0, consumed_tokens=0, batch_hash=0,
            values={"train/lm_loss": 1.0},
        )
    )  # fmt: skip


def launched(run_dir: RunDir, number: int, begun: float) -> None:
    folder = run_dir.launch(number)
    folder.mkdir()
    (folder / "launch.json").write_text('{"world_size": 1}')
    os.utime(folder / "launch.json", (begun, begun))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run whose first launch made 10 steps of 10 s and was killed, whose second one went on from step 6."""
    run_dir = untrained_run(tmp_path / "runs" / "one")
    launched(run_dir, 1, BEGIN)
    launched(run_dir, 2, BEGIN + 200)
    append_event(run_dir.events, Started(attempt=0, step=0), lambda: BEGIN + 20)
    lines = [record(step, BEGIN + 20 + 10 * step) for step in range(1, 11)]
    append_event(run_dir.events, Resumed(attempt=0, step=6), lambda: BEGIN + 230)
    lines += [record(step, BEGIN + 230 + 10 * (step - 6)) for step in range(7, 15)]
    run_dir.metrics.write_text("".join(lines))
    back = RolledBack(attempt=1, step=12, from_step=14)
    append_event(run_dir.events, back, lambda: BEGIN + 312)
    append_event(run_dir.events, Exit(attempt=1, step=14, exit_code=0), lambda: BEGIN + 332)
    return run_dir


def test_the_launches_of_a_run_are_read_from_its_files(run: RunDir) -> None:
    first, second = sessions_of(run, BEGIN + 1000, is_running=False)
    assert (first.trained_from, first.ended, first.first_step, first.last_step) == (BEGIN + 20, BEGIN + 120, 0, 10)
    assert (second.asked, second.begun, second.ended) == (BEGIN + 120, BEGIN + 200, BEGIN + 332)
    assert (second.first_step, second.last_step, second.rolled_back) == (6, 14, 2)
    spent = time_spent([first, second])
    assert spent == TimeSpent(total_s=332, waited_s=80, started_s=50, repeated_s=pytest.approx(40 + 102 / 5))
    running = sessions_of(run, BEGIN + 400, is_running=True)
    assert running[-1].ended == BEGIN + 400


def test_several_runs_are_a_table_those_that_need_a_person_first(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = untrained_run(tmp_path / "runs" / "another")
    launched(other, 1, BEGIN)
    assert cli.run(["status", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "state", "step", "loss", "left", "goodput", "waited", "lost", "alerts"]
    assert lines[1].split()[:2] == [str(other.root), "gone"]
    assert lines[2].split()[:3] == [str(run.root), "finished", "14/10"]
    assert "43%" in lines[2]
    assert lines[3] == f"a person must look at: {other.root}"
    assert cli.run(["status", str(run.root), str(other.root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["state"] for each in found] == ["finished", "gone"]
    assert found[0]["time"]["goodput"] == pytest.approx(0.426, abs=0.001)
    assert cli.run(["status", str(run.root)]) == 0
    assert "time       43% of 5 min 32 s for steps that count; 1 min 20 s waits" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    assert cli.run(["status", str(tmp_path / "empty"), str(run.root)]) == 64
    assert "is no run directory, and there is none in it" in capsys.readouterr().err


def test_a_record_is_found_by_its_time_wherever_it_lies(tmp_path: Path) -> None:
    path, times = tmp_path / "metrics.jsonl", [BEGIN + 3 * number for number in range(5000)]
    path.write_text("".join(record(step, time) for step, time in enumerate(times)))
    draw = random.Random(1)
    for moment in (
        BEGIN - 1,
        BEGIN,
        BEGIN + 1,
        times[-1],
        times[-1] + 1,
        *(BEGIN + draw.random() * 15000 for _ in range(50)),
    ):
        older = [step for step, time in enumerate(times) if time < moment]
        found = last_record_before(path, moment)
        assert (None if found is None else found.step) == (older[-1] if older else None)
    assert last_record_before(tmp_path / "nothing", BEGIN) is None


def test_finding_a_record_costs_the_same_in_a_long_run(tmp_path: Path) -> None:
    paths = []
    for number in (20_000, 80_000):
        paths.append(tmp_path / f"{number}.jsonl")
        paths[-1].write_text("".join(record(step, BEGIN + step) for step in range(number)))
    few, many = [instructions_of(partial(last_record_before, path, BEGIN + 9999.5)) for path in paths]
    assert many < 1.3 * few
