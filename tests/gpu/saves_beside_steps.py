"""Saves of one state in the middle of a run, and what training waits for meanwhile.

    python tests/gpu/saves_beside_steps.py CONFIG FOLDER        leaves the saves in FOLDER, and `saves.json`

A program of its own, because libraries warn when they are loaded.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from harness.config.schema import Config
    from harness.train.run import Run
    from harness.train.state import TrainState

WAITED, BESIDE, AGAIN = "waited", "beside", "again"
STEPS_BETWEEN = 4


@dataclass(frozen=True)
class Saves:
    """What was found of three saves: one that training waits for, one beside it, and one more of a later state."""

    num_bytes: int
    """Size of what the rank writes."""
    waited_s: float
    stall_s: dict[str, float]
    """Seconds for which the training thread was in the call that begins a save, by its folder."""
    step_s: list[float]
    """Seconds of each step after the begin of a save beside training, and of as many without one."""
    unlike_state: list[int]
    """Numbers of tensors that, loaded from the save beside training, are not those of the moment when it began."""
    problem: str | None
    """Reason why training had to wait for a copy."""


def save_while_training(config: Config, folder: Path, device: torch.device) -> Saves:
    """Trains on one device, saves the same state twice, and goes on at once; the saves are in `folder`."""
    from harness.checkpoint.loading import mcore as checkpoint_files
    from harness.run.paths import RunDir
    from harness.train.saving.snapshots import live
    from harness.train.start.opening import open_run
    from harness.train.world import World

    world = World(rank=0, size=1, device=device, init_method=f"file://{folder}/rendezvous")
    with open_run(config, RunDir(folder / "run"), "never", world) as (run, state):
        for name in (WAITED, BESIDE, AGAIN):
            (folder / name).mkdir()
        state, _ = _steps(run, state, STEPS_BETWEEN)
        expected = [tensor.detach().to("cpu", copy=True) for tensor in live(run)]
        began = time.perf_counter()
        run.saver.begin(folder / WAITED, beside=False).finish()
        waited_s = time.perf_counter() - began

        stall_s = {}
        step_s: list[float] = []
        for name in (BESIDE, AGAIN):
            _synchronize(device)
            began = time.perf_counter()
            writing = run.saver.begin(folder / name)
            stall_s[name] = time.perf_counter() - began
            state, seconds = _steps(run, state, STEPS_BETWEEN)
            step_s += seconds
            writing.finish()
        problem = run.saver.waits_for_copy
        state, seconds = _steps(run, state, len(step_s))
        step_s += seconds

        checkpoint_files.load(folder / BESIDE, run.pipeline.chunks, run.optimizer.megatron)
        pairs = enumerate(zip(live(run), expected, strict=True))
        unlike = [number for number, (found, tensor) in pairs if not torch.equal(found.detach().cpu(), tensor)]
    num_bytes = sum(file.stat().st_size for file in (folder / BESIDE).glob("*.distcp"))
    return Saves(num_bytes, waited_s, stall_s, step_s, unlike, problem)


def _steps(run: Run, state: TrainState, num_steps: int) -> tuple[TrainState, list[float]]:
    from harness.train.steps.step import take_step

    seconds = []
    for _ in range(num_steps):
        result = take_step(run, state)
        state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
        seconds.append(result.seconds)
    return state, seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main(config: str, folder: str) -> None:
    from harness.config.load import load_config

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    saves = save_while_training(load_config(Path(config)), Path(folder), device)
    (Path(folder) / "saves.json").write_text(json.dumps(asdict(saves)))


if __name__ == "__main__":
    main(*sys.argv[1:])
