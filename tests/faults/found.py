"""Faults that once broke something, each with what it broke: played in every `make test`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fault_report import Report, TrialId
from scenes import Scene
from system_calls import SystemCall
from trainer_faults import CallFault, TrainerTrial
from warm_trainer import WarmTrainer

Throw = Callable[[TrainerTrial], None]


def _at(path: str, name: str, number: int, kind: str, *, sticky: bool = False, result: int = 0) -> Throw:
    fault = CallFault(SystemCall(path, name, number, result), kind, sticky)
    return lambda trial: trial.at_call(fault)


def _damaged(trial: TrainerTrial) -> None:
    trial.harmed("an emptied file")


FOUND: Sequence[tuple[str, str, Sequence[Throw]]] = (
    (
        "a writer that was killed let its trainer wait for ever",
        "save beside training",
        [_at("checkpoints/step_0000006.TOKEN.partial/__0_0.distcp", "write", 1, "SIGKILL")],
    ),
    (
        "a lost write was hashed, and so became the truth",
        "save",
        [_at("checkpoints/step_0000008.TOKEN.partial/__0_0.distcp", "write", 4, "lost", result=16384)],
    ),
    (
        "a lost write left no common.pt behind, and nobody looked",
        "save",
        [_at("checkpoints/step_0000008.TOKEN.partial/common.pt", "write", 1, "lost", result=1959)],
    ),
    (
        "metadata.json was lost when Megatron wrote it a second time (now it is written once)",
        "save",
        [_at("checkpoints/step_0000008.TOKEN.partial/metadata.json", "write", 1, "lost", result=119)],
    ),
    (
        "a lock that could not be given back made a failure of a run that had finished",
        "release",
        [_at("lock", "ftruncate", 1, "EIO", sticky=True)],
    ),
    (
        "the same, where the disk complained as the lock was closed",
        "rollback",
        [_at("lock", "close", 1, "EDQUOT", sticky=True)],
    ),
    (
        "a folder of checkpoints that could not be listed for a moment ended training",
        "release",
        [_at("checkpoints", "openat", 4, "EIO")],
    ),
    (
        "a small file of a checkpoint that could not be opened ended a rollback in a traceback",
        "rollback",
        [_at("checkpoints/step_0000002/metadata.json", "openat", 2, "EMFILE")],
    ),
    (
        "a folder of checkpoints that could not be listed at the start ended it in a traceback",
        "release",
        [_at("checkpoints", "openat", 3, "EIO")],
    ),
    (
        "acknowledgements that could not be listed ended the start in a traceback",
        "save",
        [_at("signals/done", "openat", 1, "ESTALE", sticky=True)],
    ),
    (
        "metrics that cannot be read ended the start in a traceback",
        "save",
        [_at("metrics.jsonl", "openat", 1, "EMFILE")],
    ),
    (
        "a finished run trained on, because a rollback that was carried out was found again",
        "rollback",
        [_at("signals/done/rollback-0000002.json.partial", "write", 1, "EIO", sticky=True)],
    ),
    (
        "an index that could not be opened ended a rollback in a traceback of torch, before the error",
        "rollback",
        [_at("checkpoints/step_0000002/.metadata", "openat", 1, "EIO")],
    ),
    (
        "samples that a rollback had skipped came again, when the checkpoints behind it were damaged",
        "rollback",
        [_at("checkpoints/step_0000006.TOKEN.partial", "mkdir", 1, "SIGKILL"), _damaged, _damaged],
    ),
    (
        "a rollback was carried out twice, when its checkpoint was damaged before it was acknowledged",
        "rollback",
        [_at("signals/done/rollback-0000002.json.partial", "write", 1, "SIGKILL"), _damaged],
    ),
    (
        "an order that could not be read for a moment was rejected",
        "rollback",
        [_at("signals/rollback.json", "openat", 1, "EMFILE")],
    ),
    (
        "metrics that could not be closed were a traceback from nowhere, where a reader was left before its end",
        "snapshots",
        [_at("metrics.jsonl", "close", 2, "EIO", sticky=True)],
    ),
    (
        "metrics that could not be read ended a start in a traceback, behind the load, and blamed its checkpoint",
        "prune",
        [_at("metrics.jsonl", "openat", 2, "ESTALE", sticky=True)],
    ),
)
"""(what broke, scene, faults)"""


def play_found(number: int, scenes: Sequence[Scene], place: Path, trainer: WarmTrainer, report: Report) -> None:
    """Plays one of them; a number beyond the last does nothing."""
    if number >= len(FOUND):
        return
    _, name, faults = FOUND[number]
    scene = next(scene for scene in scenes if scene.recipe.name == name)
    TrainerTrial(scene, TrialId("found", 0, number), place, trainer, report).play(faults)
