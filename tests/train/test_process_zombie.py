"""A trainer that slept while another one took its run over publishes nothing when it wakes, and leaves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from process_runs import Command, Site, descendants

from harness.run.checkpoints.manifest import read_manifest

LAST_STEP = 40
SAVE_EVERY = 2


def one_rank(root: Path) -> Site:
    site = Site(root)
    site.config["run"]["stop_at_step"] = LAST_STEP
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY}
    return site


def everybody(command: Command) -> list[int]:
    return [command.process.pid, *descendants(command.process.pid)]


def is_saving(site: Site) -> bool:
    return any(name.endswith(".partial") for name in site.checkpoints())


def published(site: Site) -> dict[str, bytes]:
    """Every file through which a run speaks, and what is in it."""
    run = site.run_dir
    files = [run.metrics, run.events, run.config, run.lock, *run.fence.iterdir(), *run.checkpoints.rglob("*")]
    files += [*run.signals.rglob("*")]
    return {str(path.relative_to(run.root)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["in a step", "in a save"])
def test_a_stopped_trainer_that_wakes_after_another_took_over(moment: str, tmp_path: Path) -> None:
    site = one_rank(tmp_path)
    asleep: dict[str, Callable[[], bool]] = {
        "in a step": lambda: site.last_step() > SAVE_EVERY and not is_saving(site),
        "in a save": lambda: site.last_step() >= 2 * SAVE_EVERY and is_saving(site),
    }
    site.config["run"]["stop_at_step"] = 200
    with site.train() as zombie:
        zombie.wait_until(asleep[moment])
        for pid in everybody(zombie):
            os.kill(pid, signal.SIGSTOP)
        site.run_dir.lock.unlink()  # as on a file system whose locks reach no further than one machine

        site.config["run"]["stop_at_step"] = LAST_STEP
        code, text = site.train("--resume", "must").finish()
        assert code == 0, text
        tokens = [read_manifest(path).fencing_token for path in sorted(site.run_dir.checkpoints.iterdir())]
        assert (tokens[0], tokens[-1]) == (1, 2)
        (site.run_dir.signals / "save").touch()  # meant for whoever trains next
        before = published(site)

        for pid in everybody(zombie):
            os.kill(pid, signal.SIGCONT)
        code, text = zombie.finish()
    assert code == 64, text
    assert (
        f"harness: error: {site.run_dir.root} was taken over by whoever holds token 2, while this process held token 1"
    ) in text
    assert published(site) == before
