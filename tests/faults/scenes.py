"""Small runs in the middle of something: what the campaign disturbs, and how they go on when nobody does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from process_runs import Site
from system_calls import SystemCall, is_available, recorded_calls, recording
from warm_trainer import Outcome, WarmTrainer

from harness.run.paths import RunDir
from harness.run.records import read_records

Line = dict[int, tuple[float, float, int]]
"""Loss, gradient norm and hash of the batch of every step that counts."""

FIRST_STEP = 4
"""Where the trainer of a scene was stopped."""
LAST_STEP = 8
SAVE_EVERY = 2
SNAPSHOTS = "local"
"""Folder of the ranks' snapshots, in the run directory: what disturbs one disturbs the other."""
ROLLBACK = {"kind": "rollback", "to_step": 2, "skip_steps": [3, 4], "reason": "campaign"}


@dataclass(frozen=True)
class Recipe:
    """How a scene differs from the plain one, which saves every second step and waits for it."""

    name: str
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, Any] | None = None


RECIPES = (
    Recipe("save"),
    Recipe("save beside training", {"async_save": True}),
    Recipe("prune", {"keep_last": 1}),
    Recipe("release", {"save_as_suspect": True, "clean_after_steps": 2}),
    Recipe("rollback", {"keep_last": 3}, ROLLBACK),
    Recipe("rollback saved beside training", {"keep_last": 3, "async_save": True}, ROLLBACK),
    Recipe("snapshots", {"snapshot_every_steps": 1, "snapshot_folder": "of the place"}),
)


@dataclass(frozen=True)
class Scene:
    """A run that was stopped, as a folder to copy; what it does if it goes on; the calls that it makes for that."""

    recipe: Recipe
    folder: Path
    expected: Line
    """The line of the run if it goes on undisturbed."""
    unrolled: Line
    """The same, had there been no rollback."""
    calls: tuple[SystemCall, ...]

    def copy(self, place: Path) -> Path:
        """A fresh copy of the run in the place where it was made: paths are part of a run. Returns its directory."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.folder / "run", place / "run", symlinks=True)
        _write_config(place, yaml.safe_load((self.folder / "config.yaml").read_text()), stop_at_step=LAST_STEP)
        return place / "run"


def make_scene(recipe: Recipe, folder: Path, place: Path, trainer: WarmTrainer) -> Scene:
    """Trains up to the scene, then on to the end, recording what is called.

    Args:
        recipe: What scene.
        folder: An empty folder for what is kept.
        place: Where the run lives whenever it is played.
        trainer: Runs it.
    """
    shutil.rmtree(place, ignore_errors=True)
    site = Site(folder / "site")
    values = _configuration(site.config, recipe)
    _write_config(place, values, stop_at_step=FIRST_STEP)
    _must_finish(trainer.start(place / "config.yaml", place / "run"))
    unrolled: Line = {}
    if recipe.order is not None:
        shutil.copytree(place, folder / "before the order")
        _write_config(place, values, stop_at_step=LAST_STEP)
        _must_finish(trainer.start(place / "config.yaml", place / "run"))
        unrolled = line_of(place / "run")
        shutil.rmtree(place)
        shutil.copytree(folder / "before the order", place)
        (place / "run" / "signals" / "rollback.json").write_text(json.dumps(recipe.order))
    _write_config(place, values, stop_at_step=LAST_STEP)
    shutil.copytree(place / "run", folder / "run")
    shutil.copy(place / "config.yaml", folder / "config.yaml")
    log = folder / "calls.txt"
    _must_finish(trainer.start(place / "config.yaml", place / "run", strace=recording(log) if is_available() else ()))
    expected = line_of(place / "run")
    assert sorted(expected) == list(range(1, LAST_STEP + 1))
    calls = recorded_calls(log, place / "run") if is_available() else ()
    # Names of snapshots are those of one start: they are damaged instead.
    calls = tuple(call for call in calls if not call.path.startswith(f"{SNAPSHOTS}/"))
    return Scene(recipe, folder, expected, unrolled or expected, calls)


def line_of(run_dir: Path) -> Line:
    path = RunDir(run_dir).metrics
    records = read_records(path) if path.is_file() else ()
    return {
        record.step: (record.values["train/lm_loss"], record.values["optim/grad_norm"], record.batch_hash)
        for record in records
    }


def _configuration(values: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    model = {**values["model"], "num_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "ffn_hidden_size": 32}
    checkpoint = {"save_every_steps": SAVE_EVERY, **recipe.checkpoint}
    return {**values, "model": model, "parallel": {"micro_batch_size": 4}, "checkpoint": checkpoint}


def _write_config(place: Path, values: dict[str, Any], *, stop_at_step: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    values = {**values, "run": {**values["run"], "stop_at_step": stop_at_step}}
    if "snapshot_folder" in values["checkpoint"]:
        values["checkpoint"] = {**values["checkpoint"], "snapshot_folder": str(place / "run" / SNAPSHOTS)}
    (place / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))


def _must_finish(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output
