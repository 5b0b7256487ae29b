"""A run of four phases in real processes, to whose channels parts are added, and which is killed again and again."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from process_runs import VOCAB_SIZE, Command, Site, descendants, kill_all

from data_prep.indexed_writer import PartWriter, token_dtype

STEPS_PER_PHASE = 10
NUM_PHASES = 4
LAST_STEP = NUM_PHASES * STEPS_PER_PHASE
_ARRIVES_BEHIND_STEP = 3
"""Step of each phase behind which a part is added."""

Step = tuple[Any, ...]
"""What a step was made of and what came of it."""


def phased_site(root: Path, **of_long: object) -> Site:
    """Warm-up with a growing batch, main, longer samples, annealing on other data."""
    site = Site(root)
    common = {"train_steps": STEPS_PER_PHASE, "seq_length": 16, "global_batch_size": 4}
    site.config["phases"] = [
        {
            **common,
            "name": "warmup",
            "blend": {"en": 3, "code": 1},
            "batch_ramp_up": {"start": 2, "increment": 2, "ramp_up_samples": 8},
            "schedule": {"style": "constant", "warmup_steps": STEPS_PER_PHASE},
        },
        {**common, "name": "main", "blend": {"en": 3, "code": 1}, "schedule": {"style": "cosine", "continues": True}},
        {
            **common,
            "name": "long",
            "seq_length": 32,
            "global_batch_size": 2,
            "rotary_base": 1e5,
            "blend": {"en": 3, "code": 1},
            "schedule": {"style": "constant", "continues": True},
            **of_long,
        },
        {
            **common,
            "name": "anneal",
            "rotary_base": 1e5,
            "blend": {"code": 1},
            "schedule": {"style": "linear", "continues": True, "min_learning_rate_share": 0},
            "optimizer": {"weight_decay": 0.0},
            "frozen_parameters": ["embedding.*"],
        },
    ]
    site.config["data"]["adopt_every_s"] = 0.0
    site.config["checkpoint"] = {"save_every_steps": 4}
    return site


@dataclass
class Campaign:
    """Trains to the end in spite of kills; parts arrive while it trains."""

    site: Site
    seed: int
    num_kills: int = 0
    num_parts: int = 0

    def run(self, num_kills: int) -> None:
        """Kills everything at `num_kills` random steps, then lets the run come to its end."""
        chance = random.Random(self.seed)
        # Killed where the run has just come to, some steps further each time, so that it gets ahead in between.
        targets = sorted(chance.randint(1, LAST_STEP - 1) for _ in range(num_kills))
        for target in targets:
            with self.site.train() as command:
                self._train_until(command, target)
                time.sleep(chance.uniform(0.0, 0.2))  # so that no part of a step is spared
                kill_all([command.process.pid, *descendants(command.process.pid)])
                command.process.wait()
                self.num_kills += 1
        with self.site.train() as command:
            self._train_until(command, LAST_STEP)
            code, text = command.finish()
            assert code == 0, text

    def _train_until(self, command: Command, step: int) -> None:
        """Waits for a step of this launch, adding the parts that are due; the run may have been further before."""
        resumed = len(self.site.events("resumed")) + len(self.site.events("started"))

        def has_come() -> bool:
            self._add_due_parts()
            begun = len(self.site.events("resumed")) + len(self.site.events("started")) > resumed
            return begun and self.site.last_step() >= step

        command.wait_until(has_come)

    def _add_due_parts(self) -> None:
        while self.num_parts < NUM_PHASES:
            if self.site.last_step() < self.num_parts * STEPS_PER_PHASE + _ARRIVES_BEHIND_STEP:
                return
            self.num_parts += 1
            add_part(self.site.root / "data" / ("code" if self.num_parts % 2 else "en"), (self.num_parts + 1) // 2)


def add_part(folder: Path, number: int) -> None:
    """One more part of a channel, with its line."""
    chance = np.random.RandomState(number)  # its numbers never change, unlike those of numpy's newer generators
    writer = PartWriter(folder, number, token_dtype(VOCAB_SIZE))
    for _ in range(20):
        writer.add_document(chance.randint(0, VOCAB_SIZE, size=chance.randint(20, 60)).tolist())
    writer.finish()


def undisturbed(site: Site) -> Site:
    """The same run from its first step to its last in one launch, with the parts adopted where they were adopted."""
    other = Site(site.root / "undisturbed", config={})
    other.config = site.config
    other.run_dir.make_folders()
    shutil.copy(site.run_dir.order, other.run_dir.order)
    code, text = other.train().finish()
    assert code == 0, text
    return other


def steps(site: Site) -> dict[int, Step]:
    """Every step that counts, to the last bit."""
    names = ("train/lm_loss", "optim/grad_norm", "optim/learning_rate")
    return {
        record.step: (
            record.phase,
            record.batch_hash,
            record.consumed_samples,
            *(record.values[name] for name in names),
        )
        for record in site.records()
    }
