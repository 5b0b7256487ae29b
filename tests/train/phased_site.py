"""A run of four phases as its user starts it: warm-up, main, longer samples, annealing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from process_runs import Site

STEPS_PER_PHASE = 30
NUM_PHASES = 4
LAST_STEP = NUM_PHASES * STEPS_PER_PHASE

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
