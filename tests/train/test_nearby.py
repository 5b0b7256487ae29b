"""A start on the same nodes goes on from the ranks' snapshots, as if nothing had ended, or else from the checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from checkpoint_samples import published_manifest
from process_runs import Command, Site, descendants, kill_all

from harness.checkpoint.node_folder import NodeFolder, SnapshotRecord
from harness.config.schema import Config
from harness.plan.layouts import phase_world_sizes
from harness.plan.plan import make_plan
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import Parent
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.train.components.identity import config_hash, versions
from harness.train.components.nearby import adds_to, attempt_from

SAVE_EVERY = 10
LAST_STEP = 40


def two_ranks(root: Path, **checkpoint: Any) -> Site:
    site = Site(root)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY, **checkpoint}
    site.config["run"]["stop_at_step"] = LAST_STEP
    return site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return two_ranks(tmp_path, snapshot_every_steps=1, snapshot_folder=str(tmp_path / "local"))


def folders(site: Site) -> list[NodeFolder]:
    return [NodeFolder.of_rank(site.root / "local", site.run_dir, rank) for rank in (0, 1)]


def kill_between_saves(site: Site, command: Command, *, after: int) -> None:
    """Kills everybody some steps behind a checkpoint."""

    def is_there() -> bool:
        step = site.last_step()
        return step > after and step % SAVE_EVERY in (3, 4, 5, 6)

    with command:
        command.wait_until(is_there)
        kill_all([command.process.pid, *descendants(command.process.pid)])


def newest_checkpoint(site: Site) -> int:
    return max(entry.step for entry in CheckpointStore(site.run_dir).list())


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_from_its_last_steps(site: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    undisturbed = two_ranks(tmp_path_factory.mktemp("undisturbed"))
    code, text = undisturbed.train().finish()
    assert code == 0, text

    for kills in (1, 2):
        kill_between_saves(site, site.train(), after=SAVE_EVERY * kills)
        assert (len(site.events("resumed")), newest_checkpoint(site)) == (kills - 1, SAVE_EVERY * kills)
    code, text = site.train().finish()
    assert code == 0, text
    assert f"resuming small from {site.run_dir.checkpoint(2 * SAVE_EVERY)} (step {2 * SAVE_EVERY})" in text
    assert "and from there by the ranks' snapshots of step 2" in text
    first, second = site.events("resumed")
    assert SAVE_EVERY < first["step"] < 2 * SAVE_EVERY < second["step"] < 3 * SAVE_EVERY
    assert first["from_snapshot"]
    assert second["from_snapshot"]
    assert site.losses() == undisturbed.losses()
    assert [record.batch_hash for record in site.records()] == [record.batch_hash for record in undisturbed.records()]
    assert not list((site.root / "local").iterdir())  # a checkpoint has all of it


def damage(folder: NodeFolder) -> None:
    for file in folder.path.glob("*.state"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda site: damage(folders(site)[1]), "passed over the snapshot of step"),
        (lambda site: folders(site)[1].remove(), ""),
    ],
    ids=["damaged", "on another node"],
)
def test_without_all_of_it_the_checkpoint_counts(site: Site, harm: Callable[[Site], None], told: str) -> None:
    kill_between_saves(site, site.train(), after=SAVE_EVERY)
    assert all(folder.records() for folder in folders(site))
    harm(site)
    code, text = site.train().finish()
    assert code == 0, text
    assert told in text
    (resumed,) = site.events("resumed")
    assert (resumed["step"], resumed["from_snapshot"]) == (SAVE_EVERY, False)


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    site = two_ranks(tmp_path, snapshot_every_steps=1, snapshot_folder=str(tmp_path / "local"))
    (tmp_path / "local").write_text("a file")
    code, text = site.train("--set", f"run.stop_at_step={SAVE_EVERY + 6}").finish()
    assert code == 0, text
    assert text.count("warning: ") == 1
    assert f"warning: 2 ranks cannot write their snapshots: File exists ({tmp_path / 'local'})" in text


@pytest.mark.slow
def test_what_was_rolled_back_does_not_come_again(site: Site) -> None:
    """Snapshots of before a rollback add to a checkpoint that is no longer the one to go on from."""
    site.config["phases"][0]["train_steps"] = 1_000_000
    del site.config["run"]["stop_at_step"]
    with site.train() as command:
        command.wait_until(lambda: site.last_step() > 2 * SAVE_EVERY + 2)
        order = site.run_dir.signals / "back.json"
        order.write_text('{"kind": "rollback", "to_step": 10, "skip_steps": [11, 12]}')
        command.wait_until(lambda: bool(site.events("rollback")))
        kill_all([command.process.pid, *descendants(command.process.pid)])
    rolled_back = site.events("rollback")[0]["attempt"]
    order.unlink(missing_ok=True)
    with site.train() as command:
        command.wait_until(lambda: bool(site.events("resumed")))
    (resumed,) = site.events("resumed")
    (record,) = [found for found in site.records() if found.step == resumed["step"]]
    assert resumed["step"] == SAVE_EVERY or record.attempt >= rolled_back


@pytest.mark.parametrize(
    ("recorded", "attempt"),
    [
        ([(0, 11), (0, 12), (0, 13), (0, 14)], 1),
        ([(0, 11), (0, 12), (0, 13)], 0),
        ([(0, 11), (0, 12), (0, 13), (1, 14), (1, 15)], 2),
        ([(0, 11), (0, 12)], None),  # lines that a node took with it
        ([(0, 11), (0, 12), (0, 13), (0, 14), (1, 11)], None),  # another start went on from the checkpoint
        ([(0, 11), (0, 12), (0, 13), (1, 11), (1, 12), (1, 13)], None),
        ([], None),
    ],
)
def test_a_snapshot_counts_if_the_metrics_lead_to_it(
    tmp_path: Path, recorded: list[tuple[int, int]], attempt: int | None
) -> None:
    run_dir = RunDir(tmp_path)
    for of_attempt, step in recorded:
        record = StepRecord(
            attempt=of_attempt,
            step=step,
            time=0.0,
            phase="main",
            consumed_samples=4 * step,
            consumed_tokens=64 * step,
            batch_hash=1,
            values={},
        )
        with run_dir.metrics.open("a") as file:
            file.write(to_json_line(record))
    manifest = published_manifest(13)
    snapshot = SnapshotRecord(step=13, attempt=0, start="0" * 32, optimizer_steps=(), manifest=manifest)
    assert attempt_from(snapshot, run_dir) == attempt


def test_what_adds_to_a_checkpoint(tmp_path: Path) -> None:
    config = Config.model_validate(two_ranks(tmp_path).config)
    plan = make_plan(config, phase_world_sizes(config, 2))
    saved = published_manifest(SAVE_EVERY)
    entry = Checkpoint(path=tmp_path, step=SAVE_EVERY, copy=1, manifest=saved)
    manifest = published_manifest(
        SAVE_EVERY + 3,
        parent=Parent(step=SAVE_EVERY, attempt=0),
        config_hash=config_hash(config),
        versions=versions(),
        layout=plan.layout,
    )
    record = SnapshotRecord(
        step=SAVE_EVERY + 3,
        attempt=0,
        start="0" * 32,
        optimizer_steps=(),
        manifest=manifest,
        parent_saved_at=saved.saved_at,
    )
    assert adds_to(record, entry, config, plan)
    changes: list[dict[str, Any]] = [
        {"parent": None},
        {"parent": Parent(step=SAVE_EVERY, attempt=1)},
        {"parent": Parent(step=SAVE_EVERY - 1, attempt=0)},
        {"config_hash": "0" * 16},
        {"versions": versions().model_copy(update={"torch": "0"})},
        {"layout": replace(plan.layout, tensor=1, pipeline=2)},
    ]
    for change in changes:
        other = record.model_copy(update={"manifest": manifest.model_copy(update=change)})
        assert not adds_to(other, entry, config, plan), change
    other_life = saved.saved_at + timedelta(seconds=1)
    assert not adds_to(record.model_copy(update={"parent_saved_at": other_life}), entry, config, plan)
    assert not adds_to(record.model_copy(update={"parent_saved_at": None}), entry, config, plan)
    assert not adds_to(record.model_copy(update={"manifest": None}), entry, config, plan)
