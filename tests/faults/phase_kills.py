"""A run of four phases to whose channels parts are added, and which is killed again and again.

`python phase_kills.py ROOT SEED NUM_KILLS` carries out one campaign, in a process of its own. With an odd seed starts
also find snapshots, and the first kill waits for a moment at which one is newer than every checkpoint.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from phased_site import LAST_STEP, NUM_PHASES, STEPS_PER_PHASE, phased_site, steps
from process_runs import VOCAB_SIZE, Site, descendants, kill_all, signal_all
from warm_trainer import Outcome, WarmTrainer

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.checkpoint.node_folder import NodeFolder
from harness.run.checkpoints.store import CheckpointStore

_MARGIN_STEPS = 15
"""Steps before the end behind which nothing is killed: the run might be over by then."""
_ARRIVES_BEHIND_STEP = 3
"""Step of each phase behind which a part is added."""


@dataclass
class Campaign:
    """Trains to the end in spite of kills; parts arrive while it trains."""

    site: Site
    trainer: WarmTrainer
    seed: int
    snapshots: NodeFolder | None = None
    num_kills: int = 0
    num_parts: int = 0

    def run(self, num_kills: int) -> None:
        """Kills the trainer at `num_kills` random moments, then lets the run come to its end."""
        chance = random.Random(self.seed)
        for target in sorted(chance.randint(1, LAST_STEP - _MARGIN_STEPS) for _ in range(num_kills)):
            delay_s = chance.uniform(0.0, 0.1)  # so that no part of a step or a save is spared
            outcome = self._start(lambda pid, step=target, wait=delay_s: self._kill_at(pid, step, wait))
            assert outcome.was_killed, outcome.output
            self.num_kills += 1
        outcome = self._start(lambda pid: self._train_until(pid, LAST_STEP + 1))
        assert outcome.code == 0, outcome.output

    def _start(self, meanwhile: Callable[[int], None]) -> Outcome:
        return start(self.trainer, self.site, meanwhile)

    def _kill_at(self, pid: int, step: int, delay_s: float) -> None:
        self._train_until(pid, step)
        time.sleep(delay_s)
        if self.num_kills == 0 and self.snapshots is not None:
            self._stop_where(pid, self._has_newer_snapshot)
        kill_all([pid, *descendants(pid)])

    def _stop_where(self, pid: int, condition: Callable[[], bool]) -> None:
        """Stops the trainer at a moment at which the condition holds."""
        while not _has_ended(pid):
            signal_all([pid, *descendants(pid)], signal.SIGSTOP)
            if condition():
                return
            signal_all([pid, *descendants(pid)], signal.SIGCONT)
            time.sleep(0.01)

    def _has_newer_snapshot(self) -> bool:
        """Returns whether the next start has to go on from a snapshot: one of the newest checkpoint's line."""
        assert self.snapshots is not None
        newest = max((entry.step for entry in CheckpointStore(self.site.run_dir).list()), default=None)
        manifests = [record.manifest for record in self.snapshots.records() if record.step <= self.site.last_step()]
        return any(each is not None and each.parent is not None and each.parent.step == newest for each in manifests)

    def _train_until(self, pid: int, step: int) -> None:
        """Returns when this start has come to a step, or has ended; adds the parts that are due."""
        starts = self._num_starts()
        while not _has_ended(pid):
            last_step = self.site.last_step()
            while self.num_parts < NUM_PHASES and last_step >= self._due_behind():
                self.num_parts += 1
                add_part(self.site.root / "data" / ("code" if self.num_parts % 2 else "en"), (self.num_parts + 1) // 2)
            if last_step >= step and self._num_starts() > starts:
                return
            time.sleep(0.01)

    def _due_behind(self) -> int:
        """The step behind which the next part arrives: one in each phase."""
        return self.num_parts * STEPS_PER_PHASE + _ARRIVES_BEHIND_STEP

    def _num_starts(self) -> int:
        return len(self.site.events("started")) + len(self.site.events("resumed"))


def start(trainer: WarmTrainer, site: Site, meanwhile: Callable[[int], None] | None = None) -> Outcome:
    """One start of the trainer of a site."""
    config = site.root / "config.yaml"
    config.write_text(yaml.safe_dump(site.config, sort_keys=False))
    return trainer.start(config, site.run_dir.root, meanwhile=meanwhile)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def add_part(folder: Path, number: int) -> None:
    """One more part of a channel, with its line."""
    chance = np.random.RandomState(number)  # its numbers never change, unlike those of numpy's newer generators
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for _ in range(20):
        writer.add_document(chance.randint(0, VOCAB_SIZE, size=chance.randint(20, 60)).tolist())
    writer.finish()


def undisturbed(site: Site, trainer: WarmTrainer) -> Site:
    """The same run from its first step to its last in one start, with the parts adopted where they were adopted."""
    other = Site(site.root / "undisturbed")
    other.config = site.config
    other.run_dir.make_folders()
    shutil.copy(site.run_dir.order, other.run_dir.order)
    outcome = start(trainer, other)
    assert outcome.code == 0, outcome.output
    return other


def main(root: Path, seed: int, num_kills: int) -> None:
    """One campaign, in a process of its own: a warm trainer bears no other threads."""
    trainer = WarmTrainer()
    campaign = Campaign(phased_site(root), trainer, seed)
    if seed % 2:
        campaign.site.config["checkpoint"] |= {"snapshot_every_steps": 2, "snapshot_folder": str(root / "local")}
        campaign.snapshots = NodeFolder.of_rank(root / "local", campaign.site.run_dir, 0)
    campaign.run(num_kills)
    assert campaign.num_kills == num_kills
    assert campaign.num_parts == NUM_PHASES
    site, other = campaign.site, undisturbed(campaign.site, trainer)
    adopted = {event["position"] for event in site.events("adopted")}
    assert len(adopted) == NUM_PHASES, adopted
    found, expected = steps(site), steps(other)
    assert sorted(found) == list(range(1, LAST_STEP + 1))
    differing = [step for step in expected if found[step] != expected[step]]
    assert any(event["from_snapshot"] for event in site.events("resumed")) == bool(seed % 2)
    assert not differing, [(step, found[step], expected[step]) for step in differing[:3]]


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
