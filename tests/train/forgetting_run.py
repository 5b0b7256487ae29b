"""A small run of two phases, English and then Chinese, that goes on from the weights of another one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_run import Grid, small_config

from harness.config.schema import Config, PhaseConfig
from harness.data.order.cursor import Cursor
from harness.run.checkpoints.manifest import read_manifest, write_manifest
from harness.run.paths import RunDir

BASE_STEPS = 12
BORDER = 10
LAST_STEP = 20
_PHASE = {"seq_length": 32, "global_batch_size": 8, "schedule": {"style": "constant"}}
PHASES: tuple[dict[str, Any], ...] = (
    {**_PHASE, "name": "english", "train_steps": BORDER, "blend": {"en": 1.0}},
    {**_PHASE, "name": "chinese", "train_steps": LAST_STEP - BORDER, "blend": {"zh": 1.0}},
)
CHANGES: dict[str, Any] = {"evaluation.num_samples_per_channel": 6, "checkpoint.save_every_steps": 5}


def base_config(corpus: Path) -> Config:
    """The run that makes the base weights: all channels, and nothing is evaluated."""
    return small_config(corpus, Grid(), {"run.stop_at_step": BASE_STEPS})


def two_phases(
    corpus: Path,
    changes: Mapping[str, Any] | None = None,
    grid: Grid | None = None,
    of_phases: tuple[Mapping[str, Any], ...] = ({}, {}),
) -> Config:
    """The run of both phases; `code` is in no blend, and `data.channels` has it all the same."""
    phases = tuple(PhaseConfig.model_validate({**phase, **own}) for phase, own in zip(PHASES, of_phases, strict=True))
    return small_config(corpus, grid, {**CHANGES, **(changes or {})}).model_copy(update={"phases": phases})


def begin_with(base: Path, run_dir: Path) -> Path:
    """Put weights into a new run as a converter does: a checkpoint of step 0, without an optimizer and without data."""
    source, target = RunDir(base).checkpoint(BASE_STEPS), RunDir(run_dir).checkpoint(0)
    target.mkdir(parents=True)
    manifest = read_manifest(source)
    for name in manifest.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source / name, target / name)
    nothing = {"step": 0, "attempt": 0, "parent": None, "consumed_samples": 0, "consumed_tokens": 0}
    converted = manifest.model_copy(
        update={
            **nothing,
            "cursor": Cursor().to_json(),
            "learning_rate": 0.0,
            "next_batch_hash": None,
            "optimizer_norms": {},
            "last_losses": (),
            "health": "clean",
            "longest_seq_length": 0,
            "fingerprint": {"model": manifest.fingerprint["model"], "tokenizer": None},
        }
    )
    write_manifest(target, converted)
    return run_dir


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    """The events of a kind."""
    lines = RunDir(run_dir).events.read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["kind"] == kind]
