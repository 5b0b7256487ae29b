"""Parts that arrive, documents that are taken out, and channels that run dry, while a run trains."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pool import Pool
from small_run import VOCAB_SIZE, Grid, launch, records, small_config

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.config.load import dump_config
from harness.config.schema import Config
from harness.run.paths import RunDir
from harness.usage.ledger import RunLedger

LAST_STEP = 14
PATIENCE_S = 120.0


def add_part(folder: Path, number: int, num_documents: int = 25) -> None:
    """One more part of a channel, with its line."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(number)  # its numbers never change, unlike those of numpy's newer generators
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for _ in range(num_documents):
        writer.add_document(random.randint(0, VOCAB_SIZE, size=random.randint(30, 70)).tolist())
    writer.finish()


@pytest.fixture
def channels(tmp_path: Path) -> Path:
    folder = tmp_path / "channels"
    for name in ("zh", "en"):
        add_part(folder / name, 0)
    return folder


def config_of(channels: Path, *, stop_at_step: int = LAST_STEP, grid: Grid | None = None, **of_zh: object) -> Config:
    changes: dict[str, Any] = {
        "data.channels": {"zh": {"path": channels / "zh", **of_zh}, "en": {"path": channels / "en"}},
        "data.adopt_every_s": 0.0,
        "phases.blend": {"zh": 2, "en": 1},
        "phases.train_steps": LAST_STEP,
        "checkpoint.save_every_steps": 4,
        "evaluation.held_out_share": 0.0,
        "run.stop_at_step": stop_at_step,
    }
    return small_config(channels, grid, changes)


def train(pool: Pool, config: Config, run_dir: Path) -> None:
    run_dir.mkdir(exist_ok=True)
    RunDir(run_dir).config.write_text(dump_config(config))
    launch(pool, config, run_dir)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in RunDir(run_dir).events.read_text().splitlines()]
    return [event for event in found if event["kind"] == kind]


def course(run_dir: Path) -> list[tuple[int, int, float]]:
    """What every step was trained on, and what came of it, in all bits."""
    return [(record.step, record.batch_hash, record.values["train/lm_loss"]) for record in records(run_dir)]


def as_if_killed(run_dir: Path, after_step: int) -> None:
    """Takes the checkpoints away that a run killed some steps after this one would not have."""
    for checkpoint in RunDir(run_dir).checkpoints.iterdir():
        if checkpoint.name > f"step_{after_step:07}":
            shutil.rmtree(checkpoint)


@pytest.mark.slow
@pytest.mark.parametrize("grid", [Grid(), Grid(pp=2, dp=2)], ids=["one", "pp2-dp2"])
def test_arriving_parts_are_adopted_and_a_killed_run_adopts_them_again_at_the_same_place(
    grid: Grid, pool: Pool, channels: Path, tmp_path: Path
) -> None:
    run_dir, straight = tmp_path / "run", tmp_path / "straight"
    train(pool, config_of(channels, stop_at_step=4, grid=grid), run_dir)
    add_part(channels / "zh", 1)
    add_part(channels / "en", 1)
    train(pool, config_of(channels, stop_at_step=11, grid=grid), run_dir)
    adopted = events(run_dir, "adopted")
    assert sorted((event["channel"], event["parts"]) for event in adopted) == [
        ("en", ["part-00001"]),
        ("zh", ["part-00001"]),
    ]
    assert all(4 <= event["step"] <= 11 and event["position"] == 8 * event["step"] for event in adopted)
    as_if_killed(run_dir, after_step=4)
    train(pool, config_of(channels, grid=grid), run_dir)
    assert len(events(run_dir, "adopted")) == 2

    straight.mkdir()
    shutil.copy(RunDir(run_dir).order, RunDir(straight).order)  # the same history, without a stop
    train(pool, config_of(channels), straight)
    ours, theirs = course(run_dir), course(straight)
    assert [step[:2] for step in ours] == [step[:2] for step in theirs]
    if grid == Grid():
        assert ours == theirs
    uses = RunLedger(run_dir).parts()
    assert sum(use.samples for use in uses if use.is_kept) == 8 * LAST_STEP
    assert {use.part for use in uses if use.channel == "zh"} == {"part-00000", "part-00001"}
    assert sum(use.samples for use in uses if not use.is_kept) == 8 * (11 - 4)


@pytest.fixture
def feeder(channels: Path) -> Iterator[list[Path]]:
    """Adds a part to zh as soon as a run in the list says that it waits."""
    runs: list[Path] = []
    stop = threading.Event()

    def feed() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not stop.wait(0.05) and time.monotonic() < deadline:
            for run_dir in runs:
                if RunDir(run_dir).events.exists() and events(run_dir, "waiting-for-parts"):
                    add_part(channels / "zh", 1, num_documents=80)
                    return

    thread = threading.Thread(target=feed)
    thread.start()
    yield runs
    stop.set()
    thread.join()


@pytest.mark.slow
def test_training_waits_for_parts_and_goes_on_when_they_come(
    pool: Pool, channels: Path, tmp_path: Path, feeder: list[Path]
) -> None:
    run_dir = tmp_path / "run"
    feeder.append(run_dir)
    train(pool, config_of(channels, when_low="wait"), run_dir)
    (waited,) = events(run_dir, "waiting-for-parts")
    (came,) = events(run_dir, "parts-came")
    (adopted,) = events(run_dir, "adopted")
    assert waited["channels"] == ["zh"]
    assert waited["step"] == adopted["step"] == came["step"] < LAST_STEP
    epochs = {use.epoch for use in RunLedger(run_dir).parts() if use.channel == "zh"}
    assert epochs == {0}
    assert len(records(run_dir)) == LAST_STEP


@pytest.mark.slow
def test_documents_in_quarantine_are_in_no_later_sample(pool: Pool, channels: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    train(pool, config_of(channels, stop_at_step=1), run_dir)
    seen = {each.document for each in RunLedger(run_dir).documents("zh", "part-00000") if each.tokens}
    unseen = sorted(set(range(25)) - seen)[:3]
    assert unseen
    order = RunDir(run_dir).signals / "q.json"
    order.write_text(json.dumps({"kind": "quarantine", "documents": {"zh/part-00000": unseen}, "reason": "garbled"}))
    (RunDir(run_dir).signals / "r.json").write_text(
        json.dumps({"kind": "quarantine", "documents": {"zh/part-00000": [0, 99], "en/part-00009": [1]}})
    )
    train(pool, config_of(channels, stop_at_step=9), run_dir)
    (entered,) = events(run_dir, "quarantine")
    assert (entered["position"], entered["reason"]) == (8, "garbled")
    (refused,) = events(run_dir, "quarantine-refused")
    assert refused["problem"] == "zh/part-00000 has no document 99; it has 25, counted from 0."
    used = {each.document: each.tokens for each in RunLedger(run_dir).documents("zh", "part-00000")}
    assert all(used[document] == 0 for document in unseen)
    assert sum(tokens > 0 for tokens in used.values()) == 25 - len(unseen)  # the epoch went on with all others

    as_if_killed(run_dir, after_step=4)
    order.write_text(json.dumps({"kind": "quarantine", "documents": {"zh/part-00000": unseen[:1]}, "lift": True}))
    train(pool, config_of(channels), run_dir)
    used = {each.document: each.tokens for each in RunLedger(run_dir).documents("zh", "part-00000")}
    assert used[unseen[0]] > 0
    assert all(used[document] == 0 for document in unseen[1:])
