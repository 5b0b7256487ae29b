"""Trains on this machine from a YAML, as one rank of an existing world or by starting the workers of a new one."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.config.load import load_config
from harness.config.phase_settings import in_phase
from harness.config.schema import Config
from harness.errors import EXIT_REQUEUE, ConfigError
from harness.launch.cpu_room import require_room
from harness.launch.held_run import held
from harness.launch.last_words import switch_for
from harness.launch.machine import count_cores, count_gpus, free_port
from harness.launch.node_files import node_files
from harness.launch.node_log import label_of
from harness.launch.requeue import QUIET_EXITS, Action, ending_text
from harness.launch.requirements import require_installed, require_trainer
from harness.launch.workers import WorkerStart, run_workers, write_to_stderr
from harness.parallel import gpu_environment
from harness.parallel.environment import (
    LOG_LABEL,
    LOOPBACK,
    NodePlace,
    ProcessRanks,
    job_id,
    read_ranks,
    worker_environment,
)
from harness.plan.demand import require_within_limits
from harness.plan.layouts import phase_world_sizes, smallest_world_size
from harness.plan.plan import PhasePlan, Plan, make_plan
from harness.run.event_types import Exit
from harness.run.events import read_events
from harness.run.launch_folder import changes, make_run, open_launch
from harness.run.launches import (
    CONFIG,
    ENDED,
    Failure,
    LaunchEnding,
    LaunchStart,
    newest_checkpoint,
    node_log,
    write_launch_file,
)
from harness.run.lock import RunLock
from harness.run.paths import RunDir

WORKER = (sys.executable, "-u", "-X", "faulthandler", "-m", "harness.train.worker")
_TRAINER = "harness.train.main"


def train(
    config_path: Path,
    run_dir: Path | None,
    overrides: tuple[str, ...],
    resume: str,
    worker_command: Sequence[str] = WORKER,
) -> int:
    """Train, and return the exit code.

    Under torchrun or srun this process is one of their ranks. Otherwise it starts the local workers that the layout
    needs: one per GPU, or processes on the CPU without GPUs. Workers read `config.yaml` in the launch's folder. If a
    phase has a layout of its own, they leave at its border, and other workers are started for it.

    `run_dir` is by default `runs/<run.name>`. `overrides` are of the form `key.sub=value`, `resume` is `auto`, `must`
    or `never`. `worker_command` goes before `--run-dir DIR --resume RESUME --config FILE`.

    Raises:
        ConfigError: The configuration is wrong, or does not fit this machine. Nothing was started.
        RunEndingError: What is left of an earlier launch, whose launcher was killed, did not end in time.
        RunInUseError: Another process trains in the run's directory. Nothing was changed there.
    """
    config = load_config(config_path, overrides)
    run = RunDir(run_dir) if run_dir is not None else RunDir.of_run(config.run.name)
    ranks = read_ranks()
    if ranks is not None:
        return _train_as(ranks, config, run, resume)
    require_trainer()
    num_gpus = count_gpus()
    require_installed(config, num_gpus=num_gpus)
    sizes = [local_world_size(in_phase(config, index), num_gpus) for index in range(len(config.phases))]
    plan = make_plan(config, sizes)
    require_within_limits(config, plan)
    if num_gpus == 0:
        require_room(config, plan, sizes)
    with held(_lock_of(run), write_to_stderr) as lock:
        phase = phase_to_begin_with(run, plan, resume)
        while True:
            start = LaunchStart(world_size=sizes[phase.index], resume=resume, phase=phase.name, job_id=job_id())
            folder = _open_launch(run, config, lock, start)
            command = (*worker_command, "--run-dir", str(run.root), "--resume", resume)
            command += ("--config", str(folder / CONFIG))
            write_to_stderr(f"{run.root}: starting {_workers_text(sizes[phase.index], num_gpus)}")
            known = size_of_events(run)
            failures: list[Failure] = []
            code = _run_workers(command, sizes[phase.index], run, folder, lock, failures.append)
            _write_ending(folder, code, failures)
            wanted = wanted_phase(run, plan, known) if code == EXIT_REQUEUE else None
            if wanted is None or wanted == phase:
                return code
            write_to_stderr(f"{run.root}: going on with phase {wanted.name} in its own layout")
            phase, resume = wanted, "auto"


def _run_workers(
    command: Sequence[str],
    world_size: int,
    run: RunDir,
    folder: Path,
    lock: RunLock,
    note: Callable[[Failure], None],
) -> int:
    """Run the workers of one launch until they have ended; return its exit code."""
    on_gpu = count_gpus() > 0
    here = NodePlace(index=0, count=1, master_address=LOOPBACK, master_port=free_port())
    descriptors = () if lock.descriptor is None else (lock.descriptor,)
    with node_files(run, folder, here.index) as files:
        starts = worker_starts(command, here, world_size, folder, on_gpu=on_gpu, further=files.environment)
        starts = [replace(start, pass_descriptors=descriptors) for start in starts]
        switch = switch_for(folder, here, files)
        beside = files.gathering()
        return run_workers(starts, kill_switch=switch, beside=beside, note=note)


def _write_ending(folder: Path, code: int, failures: Sequence[Failure]) -> None:
    """Write down how a launch on this machine ended. Nothing starts it again."""
    ended = LaunchEnding(
        ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        exit_code=code,
        action=Action.STOP,
        alert=code not in QUIET_EXITS,
        reason=ending_text(code),
        cause=failures[-1] if failures else None,
    )
    try:
        write_launch_file(folder / ENDED, ended)
    except OSError as error:
        write_to_stderr(f"{folder / ENDED} cannot be written: {error.strerror}")


def local_world_size(config: Config, num_gpus: int) -> int:
    """Return the number of workers that a configuration needs on a machine with `num_gpus` GPUs (0: on the CPU).

    Raises:
        ConfigError: It needs more GPUs than there are.
    """
    copies = config.parallel.data_parallel_size
    needed = smallest_world_size(config)
    if num_gpus == 0:
        return needed
    if needed > num_gpus:
        raise ConfigError(
            [
                f"parallel: the layout needs {needed} GPUs, this machine offers {num_gpus}; choose smaller parallel "
                "sizes, or start it on several nodes with torchrun or srun"
            ]
        )
    return needed if copies else num_gpus


def _workers_text(world_size: int, num_gpus: int) -> str:
    workers = "1 process" if world_size == 1 else f"{world_size} processes"
    return f"{workers} {'with a GPU each' if num_gpus else 'on the CPU'}"


def _train_as(ranks: ProcessRanks, config: Config, run: RunDir, resume: str) -> int:
    """Train as one rank of a world that torchrun or srun started. Rank 0 writes the launch's folder."""
    plan = make_plan(config, phase_world_sizes(config, ranks.world_size))
    if ranks.rank == 0:
        require_within_limits(config, plan)
    require_installed(config)
    gpu_environment.settle_for(config)
    # By name, like the workers of `train`: the launcher starts the trainer but does not depend on it.
    trainer: Callable[[Config, RunDir, str], int] = importlib.import_module(_TRAINER).main
    if ranks.rank != 0:
        return trainer(config, run, resume)
    with held(_lock_of(run), write_to_stderr) as lock:
        _open_launch(run, config, lock, LaunchStart(world_size=ranks.world_size, resume=resume, job_id=job_id()))
        return trainer(config, run, resume)


def _lock_of(run: RunDir) -> RunLock:
    """Return the lock of the run, and make its folders if missing."""
    make_run(run)
    return RunLock(run, job_id())


def _open_launch(run: RunDir, config: Config, lock: RunLock, start: LaunchStart) -> Path:
    if lock.unprotected_reason:
        write_to_stderr(f"warning: {lock.unprotected_reason}: make sure that nobody else trains there")
    if changed := changes(run, config):
        write_to_stderr("the configuration differs from the previous launch:")
    for line in changed:
        write_to_stderr(f"  {line}")
    return open_launch(run, config, start)


def worker_starts(
    command: Sequence[str],
    place: NodePlace,
    num_workers: int,
    folder: Path,
    *,
    on_gpu: bool,
    further: dict[str, str],
) -> list[WorkerStart]:
    """Return one start for each worker of this node. All but rank 0 write to the node's log in the launch's folder.

    `further` are environment variables that all of them get.
    """
    starts = []
    for local_rank in range(num_workers):
        rank = place.index * num_workers + local_rank
        ranks = ProcessRanks(
            rank=rank,
            world_size=place.count * num_workers,
            local_rank=local_rank,
            local_world_size=num_workers,
        )
        environment = worker_environment(
            ranks,
            master_address=place.master_address,
            master_port=place.master_port,
            num_threads=max(1, count_cores() // num_workers),
            on_gpu=on_gpu,
        )
        log = node_log(folder, place.index) if rank else None
        label = {LOG_LABEL: label_of(rank) if rank else ""}
        starts.append(WorkerStart(command=command, environment=environment | further | label, log=log))
    return starts


def phase_to_begin_with(run_dir: RunDir, plan: Plan, resume: str) -> PhasePlan:
    """Return the phase of the step after the newest checkpoint; the first phase if the run begins anew."""
    return plan.phase_of(1 if resume == "never" else newest_checkpoint(run_dir).step + 1)


def size_of_events(run_dir: RunDir) -> int:
    """Return the size of the run's event file in bytes."""
    return run_dir.events.stat().st_size if run_dir.events.exists() else 0


def wanted_phase(run_dir: RunDir, plan: Plan, after_bytes: int) -> PhasePlan | None:
    """Return the phase for which the trainer left because it needs other processes; None if it left for another reason.

    The events of the launch begin at byte `after_bytes` of the file.
    """
    exits = [event for event in read_events(run_dir.events, after_bytes=after_bytes) if isinstance(event, Exit)]
    name = exits[-1].next_phase if exits else None
    return next((phase for phase in plan.phases if phase.name == name), None)
