"""Checkpoints saved as suspect become clean when nothing strange has come of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pool import Pool
from small_run import Grid, launch, small_config

from harness.plan.layouts import Layout
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import Health, Manifest, Parent, Versions
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir
from harness.train.components.alarms import Alarm, Alarms
from harness.train.saving.suspects import proven


def entry(step: int, parent: Parent | None, *, attempt: int = 0, health: Health = "suspect") -> Checkpoint:
    manifest = Manifest(
        step=step,
        attempt=attempt,
        parent=parent,
        health=health,
        config_hash="0" * 16,
        versions=Versions(harness="0", megatron_core="0", torch="0", python="0"),
        layout=Layout(tensor=1, pipeline=1, virtual_pipeline=1, context=1, data=1),
        consumed_samples=0,
        consumed_tokens=0,
        learning_rate=0.0,
        next_batch_hash=None,
        saved_at=datetime(2026, 1, 1, tzinfo=UTC),
        save_seconds=0.0,
        cursor={},
        optimizer_norms={},
        last_losses=(),
        fingerprint={},
    )
    return Checkpoint(path=Path(f"step_{step}.{attempt}"), step=step, copy=1, manifest=manifest)


LINE = [
    entry(100, None, health="clean"),
    entry(200, Parent(step=100, attempt=0)),
    entry(300, Parent(step=200, attempt=0), health="abandoned"),
    entry(200, Parent(step=200, attempt=0), attempt=1),
    entry(300, Parent(step=200, attempt=1), attempt=1),
    entry(400, Parent(step=300, attempt=1), attempt=1),
]


@pytest.mark.parametrize(
    ("distance", "alarms", "found"),
    [
        (100, [], ["step_300.1", "step_200.1", "step_200.0"]),
        (150, [], ["step_200.1", "step_200.0"]),
        (201, [], []),
        (100, [Alarm(1, 400)], ["step_200.1", "step_200.0"]),
        (100, [Alarm(1, 399)], ["step_200.1", "step_200.0"]),
        (100, [Alarm(1, 401)], ["step_300.1", "step_200.1", "step_200.0"]),
        (100, [Alarm(1, 250)], []),
        (100, [Alarm(0, 290)], ["step_300.1", "step_200.1"]),
        (100, [Alarm(2, 300)], ["step_300.1", "step_200.1", "step_200.0"]),
    ],
)
def test_proven(distance: int, alarms: list[Alarm], found: list[str]) -> None:
    newest = Parent(step=400, attempt=1)
    assert [item.path.name for item in proven(LINE, newest, Alarm(1, 400), distance, alarms)] == found


def test_steps_after_the_newest_checkpoint_count_and_so_do_their_alarms() -> None:
    newest, now = Parent(step=400, attempt=1), Alarm(2, 470)
    assert [item.step for item in proven(LINE, newest, now, 170, [])] == [300, 200, 200]
    assert [item.step for item in proven(LINE, newest, now, 170, [Alarm(2, 465)])] == [200, 200]


def test_what_is_linked_from_another_run_becomes_clean_there() -> None:
    line = [replace(each, other_run=Path("other")) if each.step == 200 else each for each in LINE]
    assert [item.step for item in proven(line, Parent(step=400, attempt=1), Alarm(1, 400), 100, [])] == [300]


def test_alarms_are_read_from_the_events(tmp_path: Path) -> None:
    spike = {"kind": "spike", "channel": "zh", "direction": "up", "start": 1, "end": 1, "z": 9.0, "height": 2.0}
    events = [
        {"kind": "saved", "path": "c", "seconds": 1.0},
        spike,
        {"kind": "resume-suspect", "reason": "why"},
        {"kind": "exit", "exit_code": 0},
    ]
    lines = [json.dumps({**event, "attempt": 1, "step": step}) for step, event in enumerate(events)]
    path = RunDir(tmp_path).events
    path.write_text("\n".join([*lines, '{"kind": "nan", "att']))
    alarms = Alarms(RunDir(tmp_path))
    assert alarms.look() == [Alarm(1, 1), Alarm(1, 2)]
    with path.open("a") as file:
        file.write("\n" + json.dumps({"kind": "resume-suspect", "reason": "why", "attempt": 1, "step": 7}) + "\n")
    assert alarms.look() == [Alarm(1, 1), Alarm(1, 2), Alarm(1, 7)]
    path.write_text(json.dumps({"kind": "resume-suspect", "reason": "why", "attempt": 1, "step": 9}) + "\n")
    assert alarms.look() == [Alarm(1, 1), Alarm(1, 2), Alarm(1, 7), Alarm(1, 9)]
    assert Alarms(RunDir(tmp_path / "nowhere")).look() == []


@pytest.mark.slow
def test_a_run_releases_its_checkpoints(pool: Pool, corpus: Path, tmp_path: Path) -> None:
    settings = {"save_every_steps": 2, "clean_after_steps": 3}
    changes = {f"checkpoint.{name}": value for name, value in settings.items()}
    launch(pool, small_config(corpus, Grid(), {"run.stop_at_step": 6, **changes}), tmp_path)
    healths = [
        item.manifest.health for item in CheckpointStore(RunDir(tmp_path)).list() if isinstance(item, Checkpoint)
    ]
    assert healths == ["clean", "suspect", "suspect"]
    released = [json.loads(line) for line in RunDir(tmp_path).events.read_text().splitlines() if '"released"' in line]
    assert [(event["step"], event["checkpoint"]) for event in released] == [(5, "step_0000002")]
