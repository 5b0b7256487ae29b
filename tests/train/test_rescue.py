"""A loss that is not finite: with a watcher that may roll back the run goes on, within its budget; else it leaves."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import not_finite
import pytest
import yaml
from pool import Pool
from process_runs import Command
from small_run import Grid, column, records, small_config

from harness.config.schema import Config
from harness.run import metric_names as names
from harness.run.commands.command import Command as RunCommand
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import AnyRequest, make_request
from harness.run.paths import RunDir
from harness.run.watcher_presence import is_watched
from harness.train.decide import Decision, Milestones, decide
from harness.train.state import TrainState

BATCH = 8
LAST = 50
BAD_STEP = 31
BAD = ((BAD_STEP - 1) * BATCH, (BAD_STEP + 1) * BATCH)
"""The samples of two steps."""
WATCH = {
    "watch.action": "rollback",
    "watch.rollback_margin_steps": 5,
    "watch.skip_lead_steps": 2,
    "watch.skip_steps": 6,
    "watch.most_skip_steps": 6,
    "watch.cool_down_steps": 100,
    "watch.verify_steps": 0,
    "watch.poll_s": 0.05,
    "watch.least_free_gib": 0,
}


def prepared(corpus: Path, grid: Grid, root: Path, **changes: Any) -> Config:
    """The configuration, written where a watcher looks for it."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    config = small_config(corpus, grid, {"checkpoint.save_every_steps": 10, **WATCH, **dotted})
    RunDir(root).make_folders()
    RunDir(root).config.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return config


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    lines = RunDir(root).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def train_watched(pool: Pool, config: Config, grid: Grid, root: Path, positions: tuple[int, int]) -> list[int]:
    """Exit codes of the ranks; the watcher ends by itself."""
    with Command(["watch", str(root)]) as watching:
        watching.wait_until(lambda: is_watched(RunDir(root)))
        codes = pool.run(not_finite.train, grid.world_size, config, root, positions)
        assert watching.finish()[0] == 0
        return codes


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(), Grid(pp=2, dp=2)], ids=["one", "pp2-dp2"])
def test_the_run_returns_skips_and_goes_on(grid: Grid, pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = prepared(corpus, grid, tmp_path)
    assert train_watched(pool, config, grid, tmp_path, BAD) == [0] * grid.world_size
    (rolled_back,) = events(tmp_path, "rollback")
    assert (rolled_back["from_step"], rolled_back["step"]) == (BAD_STEP, 20)
    assert rolled_back["reason"] == f"loss or gradient is not finite at step {BAD_STEP}"
    assert rolled_back["skip_windows"][0][0] <= BAD[0] < BAD[1] <= rolled_back["skip_windows"][0][1]
    assert [record.step for record in records(tmp_path)] == list(range(1, LAST + 1))
    assert all(map(math.isfinite, column(tmp_path, names.LM_LOSS)))


@pytest.mark.slow
def test_the_budget_ends_with_76_and_says_why(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = prepared(corpus, Grid(), tmp_path, watch__max_rollbacks=2)
    assert train_watched(pool, config, Grid(), tmp_path, (BAD[0], 10**9)) == [76]
    assert len(events(tmp_path, "rollback")) == 2
    (left,) = events(tmp_path, "exit")
    assert left["reason"].startswith("loss or gradient is not finite; stop-for-person by watch-stop-")
    assert "the budget of 2 rollbacks in 10000 steps is used up" in left["reason"]


@pytest.mark.slow
def test_nobody_is_waited_for_who_is_not_there(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    config = prepared(corpus, Grid(), tmp_path, watch__answer_within_s=1e6)
    assert pool.run(not_finite.train, 1, config, tmp_path, BAD) == [76]
    assert events(tmp_path, "exit")[-1]["reason"] == "loss or gradient is not finite"


def test_a_watcher_is_there_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.watch.mkdir()
    assert not is_watched(run_dir)
    for beat, expected in (
        ({"time": time.time()}, True),
        ({"time": time.time() + 30}, True),
        ({"time": time.time() - 120}, False),
        ({"time": time.time(), "may_order": False}, False),
        ({"time": "soon"}, False),
        ({}, False),
        ([], False),
    ):
        (run_dir.watch / "heartbeat.json").write_text(json.dumps(beat))
        assert is_watched(run_dir) is expected


def request_of(kind: CommandKind) -> AnyRequest:
    return make_request(kind, {"to_step": 1} if kind is CommandKind.ROLLBACK else {})


def command(kind: CommandKind) -> RunCommand:
    return RunCommand(id=str(kind), request=request_of(kind), reason="why", source="who")


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        (
            [CommandKind.ROLLBACK],
            Decision(exit_code=76, reason="loss or gradient is not finite", rollback=command(CommandKind.ROLLBACK)),
        ),
        ([CommandKind.ROLLBACK, CommandKind.STOP], Decision(exit_code=76, reason="loss or gradient is not finite")),
        (
            [CommandKind.STOP_FOR_PERSON],
            Decision(exit_code=76, reason="loss or gradient is not finite; stop-for-person by who: why"),
        ),
    ],
)
def test_only_a_rollback_saves_what_is_not_finite(commands: list[CommandKind], expected: Decision) -> None:
    milestones = Milestones(last_step=100, save_every_steps=10, evaluate_every_steps=None)
    assert decide(milestones, TrainState(step=10), [command(kind) for kind in commands], finite=False) == expected
