"""Which faults the trainer's layer throws: a mixture that chance goes on with, or every kill once."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from fault_report import Report, TrialId
from harms import HARMS
from meanwhile import MEANWHILE
from run_folder_faults import RUN_FILES
from scenes import Scene
from surroundings import SURROUNDINGS
from trainer_faults import CallFault, TrainerTrial, call_faults
from warm_trainer import WarmTrainer

MAX_FAULTS = 4
Throw = Callable[[TrainerTrial], None]
OTHERS: dict[str, Throw] = {
    "SIGKILL at a random moment": lambda trial: trial.killed(signal.SIGKILL),
    "SIGTERM at a random moment": lambda trial: trial.killed(signal.SIGTERM),
    "SIGKILL of a forked writer": TrainerTrial.writer_killed,
    "a full disk": TrainerTrial.on_a_small_disk,
    "a read-only file system": TrainerTrial.write_protected,
    "a second process in the run directory": TrainerTrial.occupied,
    **{f"{name} in a checkpoint": (lambda trial, name=name: trial.harmed(name)) for name in HARMS},
    **{f"{name} in a snapshot": (lambda trial, name=name: trial.snapshot_harmed(name)) for name in HARMS},
    **{name: (lambda trial, name=name: trial.surrounded(name)) for name in SURROUNDINGS},
    **{f"meanwhile {name}": (lambda trial, name=name: trial.meddled_with(name)) for name in MEANWHILE},
    "an index that names ../x": TrainerTrial.index_harmed,
    **{f"damage to {name}": (lambda trial, name=name: trial.run_file_harmed(name)) for name in RUN_FILES},
}
"""What can be thrown besides faults at system calls."""


def trial_of(
    trial: TrialId, scenes: Sequence[Scene], place: Path, trainer: WarmTrainer, report: Report, wanted: str = ""
) -> None:
    """Plays one trial: three of four begin at a system call, all of which have their turn; then chance goes on.

    With `wanted` only families are thrown whose name contains it.
    """
    draw = random.Random(f"first of {trial}")
    plan = [(scene, fault) for scene in scenes for fault in call_faults(scene.calls) if wanted in fault.family]
    random.Random(trial.seed).shuffle(plan)
    others = [name for name in sorted(OTHERS) if wanted in name]
    if plan and (trial.number % 4 or not others):
        scene, fault = plan[(trial.number - (trial.number // 4 if others else 0) - 1) % len(plan)]
        faults: list[Throw] = [lambda played: played.at_call(fault)]
    elif others:
        scene = draw.choice(scenes)
        faults = [OTHERS[draw.choice(others)]]
    else:
        return
    while len(faults) < MAX_FAULTS and draw.random() < 0.5:
        faults.append(_drawn(draw, scene, others, wanted))
    TrainerTrial(scene, trial, place, trainer, report).play(faults)


def kills_in(scenes: Sequence[Scene]) -> list[tuple[Scene, CallFault]]:
    """SIGKILL at every recorded call that changes what is on the disk.

    A kill before a file is opened to be read, or closed, leaves what a kill before the next change leaves.
    """
    changes = [(scene, call) for scene in scenes for call in scene.calls if not call.reads and call.name != "close"]
    return [(scene, CallFault(call, "SIGKILL")) for scene, call in changes]


def sweep_trial(trial: TrialId, scenes: Sequence[Scene], place: Path, trainer: WarmTrainer, report: Report) -> None:
    """Plays the kill of a number of `kills_in`, and nothing else."""
    scene, kill = kills_in(scenes)[trial.number]
    TrainerTrial(scene, trial, place, trainer, report).play([lambda played: played.at_call(kill)])


def _drawn(draw: random.Random, scene: Scene, others: Sequence[str], wanted: str) -> Throw:
    at_calls = [fault for fault in call_faults(scene.calls) if wanted in fault.family]
    if at_calls and (draw.random() < 0.6 or not others):
        fault = draw.choice(at_calls)
        return lambda trial: trial.at_call(fault)
    return OTHERS[draw.choice(others)]
