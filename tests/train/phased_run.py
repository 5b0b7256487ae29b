"""A small run of four phases: warm-up with a growing batch, main, longer samples, annealing on other data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_run import Grid, small_config

from harness.config.schema import Config, PhaseConfig

BORDERS = (6, 12, 18)
LAST_STEP = 24
_ALL = {"zh": 8.0, "en": 6.0, "code": 2.0}

PHASES: tuple[dict[str, Any], ...] = (
    {
        "name": "warmup",
        "train_steps": 6,
        "seq_length": 32,
        "global_batch_size": 8,
        "batch_ramp_up": {"start": 4, "increment": 4, "ramp_up_samples": 12},
        "blend": _ALL,
        "schedule": {"style": "constant", "warmup_steps": 6},
    },
    {
        "name": "main",
        "train_tokens": 6 * 8 * 32,
        "seq_length": 32,
        "global_batch_size": 8,
        "blend": _ALL,
        "schedule": {"style": "cosine", "continues": True},
    },
    {
        "name": "long",
        "train_steps": 6,
        "seq_length": 64,
        "global_batch_size": 4,
        "rotary_base": 1e6,
        "blend": _ALL,
        "schedule": {"style": "constant", "continues": True},
        "optimizer": {"clip_grad": 0.5, "adam_beta2": 0.9},
    },
    {
        "name": "anneal",
        "train_steps": 6,
        "seq_length": 32,
        "global_batch_size": 8,
        "rotary_base": 1e6,
        "blend": {"en": 1.0, "code": 3.0},
        "schedule": {"style": "linear", "continues": True, "min_learning_rate_share": 0.0},
        "optimizer": {"weight_decay": 0.0},
        "frozen_parameters": ["embedding.*", "decoder.layers.0.*"],
        "evaluation": {"channels": ["zh", "code"]},
    },
)


def phased_config(
    corpus: Path,
    grid: Grid | None = None,
    changes: Mapping[str, Any] | None = None,
    of_phases: Mapping[str, Mapping[str, Any]] | None = None,
) -> Config:
    """The run on a corpus, with fields changed by dotted name, and fields of phases by the phase's name."""
    phases = tuple(
        PhaseConfig.model_validate({**phase, **(of_phases or {}).get(phase["name"], {})}) for phase in PHASES
    )
    return small_config(corpus, grid, changes).model_copy(update={"phases": phases})
