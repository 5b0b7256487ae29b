"""Runs of two ranks that save often, and how to catch them at the right moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from process_runs import Command, Site, descendants

from harness.run.lock import owner_of

LAST_STEP = 24
SAVE_EVERY = 4


def campaign_site(root: Path, *, async_save: bool = False) -> Site:
    """Two ranks that share a tiny model, and save often."""
    site = Site(root)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY, "async_save": async_save}
    site.config["run"]["stop_at_step"] = LAST_STEP
    return site


def wait_for(command: Command, condition: Callable[[], bool], patience_s: float = 180.0) -> None:
    """Until something holds or the command has left."""
    deadline = time.monotonic() + patience_s
    while not condition() and command.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def is_saving(site: Site) -> bool:
    folder = site.run_dir.checkpoints
    return folder.is_dir() and any(name.endswith(".partial") for name in site.checkpoints())


def wait_until_gone(site: Site, patience_s: float = 60.0) -> None:
    """Until nobody holds the run's lock: workers whose launcher was killed save and leave by themselves."""
    deadline = time.monotonic() + patience_s
    while owner_of(site.run_dir) is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def everybody(command: Command) -> list[int]:
    return [command.process.pid, *descendants(command.process.pid)]


def one_rank(number: int) -> Callable[[Command], list[int]]:
    def victims(command: Command) -> list[int]:
        workers = command.workers()
        return [workers[number]] if number in workers else everybody(command)

    return victims
