"""Processes killed at any moment: what is lost is no more than the steps since the last save."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from process_runs import Command, Site, descendants, kill_all, kill_when

from harness.errors import RunInUseError
from harness.run.lock import RunLock, owner_of

LAST_STEP = 16
SAVE_EVERY = 4

pytestmark = pytest.mark.slow


def two_ranks(root: Path) -> Site:
    site = Site(root)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY}
    site.config["run"]["stop_at_step"] = LAST_STEP
    return site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return two_ranks(tmp_path_factory.mktemp("kills"))


def everybody(command: Command) -> list[int]:
    return [command.process.pid, *descendants(command.process.pid)]


def test_runs_that_are_killed_again_and_again_end_like_one_that_was_not(
    site: Site, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = two_ranks(tmp_path_factory.mktemp("undisturbed"))
    code, text = undisturbed.train().finish()
    assert code == 0, text
    expected = undisturbed.losses()
    assert sorted(expected) == list(range(1, LAST_STEP + 1))

    # One rank, in the middle of a step.
    text = kill_when(site.train(), lambda: site.last_step() > SAVE_EVERY, lambda command: [command.workers()[1]])
    assert "error: rank 1 was killed by SIGKILL: by a person, the scheduler, or the kernel for want of memory" in text
    assert "Traceback" not in text

    # All ranks and their launcher, in the middle of a save.
    text = kill_when(site.train("--resume", "must"), lambda: is_saving(site), everybody)
    assert f"resuming small from {site.run_dir.checkpoint(SAVE_EVERY)} (step {SAVE_EVERY})" in text
    assert [name for name in site.checkpoints() if name.endswith(".partial")]

    code, text = site.train("--resume", "must").finish()
    assert code == 0, text
    assert "(exit code 0): step 16 of 200" in text
    assert site.losses() == expected
    assert {record.step: record.batch_hash for record in site.records()} == {
        record.step: record.batch_hash for record in undisturbed.records()
    }
    assert site.checkpoints() == [f"step_{step:07d}" for step in (4, 8, 12, 16)]
    assert {event["attempt"] for event in site.events("resumed")} <= {1, 2}


def test_a_checkpoint_that_one_start_could_not_read_is_gone_on_from_by_the_next_with_every_step_recorded(
    site: Site, tmp_path: Path
) -> None:
    """`site` has finished: its line is what a disturbed run is compared with."""
    expected = site.losses()
    disturbed = Site(tmp_path)
    disturbed.config |= {"checkpoint": {"save_every_steps": SAVE_EVERY}, "parallel": site.config["parallel"]}
    code, text = disturbed.train("--set", "run.stop_at_step=8").finish()
    assert code == 0, text
    newest, away = disturbed.run_dir.checkpoint(8), tmp_path / "a disk that is away"
    newest.rename(away)
    saves_nothing = ("--set", "checkpoint.save_every_steps=100")
    kill_when(disturbed.train(*saves_nothing), lambda: recorded(disturbed) >= (1, 6), everybody)
    away.rename(newest)
    code, text = disturbed.train("--set", f"run.stop_at_step={LAST_STEP}").finish()
    assert code == 0, text
    assert f"resuming small from {newest} (step 8)" in text
    assert disturbed.losses() == expected
    assert [record.attempt for record in disturbed.records()] == [0] * 4 + [2] * 12


def recorded(site: Site) -> tuple[int, int]:
    last = site.records()[-1]
    return last.attempt, last.step


def is_saving(site: Site) -> bool:
    return any(name.endswith(".partial") for name in site.checkpoints())


def test_workers_save_and_leave_when_their_launcher_is_killed(tmp_path: Path) -> None:
    site = two_ranks(tmp_path)
    site.config["run"] = {"name": "small"}
    # Steps are so long that the workers are still in one when the lock is looked at.
    site.config["phases"][0] |= {"train_steps": 1_000_000, "global_batch_size": 40}
    del site.config["checkpoint"]
    with site.train() as command:
        command.wait_until(lambda: site.last_step() > 2)
        workers = command.workers()
        os.kill(command.process.pid, signal.SIGKILL)
        command.process.wait()
        try:
            # Another launch would be refused; by the time it has started, the workers may have left.
            with pytest.raises(
                RunInUseError, match=f"{site.run_dir.root} is still held by processes of an earlier launch"
            ):
                RunLock(site.run_dir).acquire()
            site.wait_until(lambda: owner_of(site.run_dir) is None)
        finally:
            kill_all(list(workers.values()))
    (ended,) = site.events("exit")
    assert (ended["exit_code"], ended["reason"]) == (75, "save-and-stop by SIGTERM")
    assert site.checkpoints() == [f"step_{ended['step']:07d}"]
