"""The task of a job step on each node: starts the node's workers and waits for them.

`python -m harness.launch.node RUN_DIR LAUNCH` is used in place of torchrun, which would turn every exit code into 1,
not forward SIGUSR1 and SIGUSR2, and kill workers 30 s after SIGTERM.
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.config.load import load_config
from harness.errors import EXIT_FINISHED, HarnessError, UsageError
from harness.launch.last_words import remove_pipes, switch_for
from harness.launch.local import WORKER, worker_starts
from harness.launch.machine import count_gpus
from harness.launch.node_files import node_files
from harness.launch.node_log import last_lines
from harness.launch.workers import run_workers
from harness.parallel.environment import NodePlace, collectives_pipes, node_name, read_node
from harness.run.launches import (
    CONFIG,
    LAUNCH,
    Failure,
    LaunchStart,
    NodeEnd,
    node_log,
    read_own_launch_file,
    write_bad_nodes,
    write_node_end,
)
from harness.run.paths import RunDir
from harness.say import complain

CHECK = (sys.executable, "-u", "-W", "ignore", "-m", "harness.parallel.node_check")


def run_node(
    run_dir: RunDir,
    launch: Path,
    place: NodePlace,
    worker_command: Sequence[str] = WORKER,
    check_command: Sequence[str] = CHECK,
) -> int:
    """Check the nodes if configured, run the workers of this one until they end, and record and return the exit code.

    Raises:
        UsageError: The launch has no number of workers per node, or there are fewer GPUs than workers.
        HarnessError: There are fewer GPUs than workers, and the job should get another node instead.
    """
    started = read_own_launch_file(launch / LAUNCH, LaunchStart)
    num_workers = None if started is None else started.workers_per_node
    if num_workers is None:
        raise UsageError(f"{launch / LAUNCH} does not say how many workers a node has; was the job begun?")
    config = launch / CONFIG
    settings = load_config(config).launch
    num_gpus = count_gpus()
    if 0 < num_gpus < num_workers:
        _refuse(launch, place, num_gpus, num_workers, take_another=settings.exclude_bad_nodes)
    training = (*worker_command, "--run-dir", str(run_dir.root), "--resume", "auto", "--config", str(config))
    commands = [(*check_command, "--launch", str(launch)), training] if settings.check_nodes else [training]
    code = EXIT_FINISHED
    failures: list[Failure] = []
    for command in commands:
        with node_files(run_dir, launch, place.index) as files:
            further = files.environment
            starts = worker_starts(command, place, num_workers, launch, on_gpu=num_gpus > 0, further=further)
            switch = switch_for(launch, place, files, pipes=collectives_pipes())
            code = run_workers(starts, kill_switch=switch, beside=files.gathering(), note=failures.append)
        if code != EXIT_FINISHED:
            break
    remove_pipes(collectives_pipes(), range(place.index * num_workers, (place.index + 1) * num_workers))
    try:
        failure = _with_log(failures[-1], node_log(launch, place.index)) if failures else None
        write_node_end(launch, place.index, NodeEnd(host=socket.gethostname(), exit_code=code, failure=failure))
    except OSError as error:  # srun passes the code on too
        complain(f"the end of this node cannot be written into {launch}: {error.strerror}")
    return code


def _with_log(failure: Failure, log: Path) -> Failure:
    """Return a failure with the end of its rank's output, which for rank 0 the batch script sends to the node's log."""
    if failure.log is not None or failure.rank is None or not log.is_file():
        return failure
    return failure.model_copy(update={"log": str(log), "last_lines": tuple(last_lines(log, failure.rank))})


def _refuse(launch: Path, place: NodePlace, num_gpus: int, num_workers: int, *, take_another: bool) -> NoReturn:
    """Raise an error for too few GPUs on this node. Records the node if the job should get another one."""
    few = f"{node_name()} offers {num_gpus} GPUs for {num_workers} workers"
    if take_another:
        write_bad_nodes(launch / f"bad_node_{place.index:05d}.json", {node_name(): [few]})
        raise HarnessError(f"{few}; the job takes another node; look for GPUs that are lost there (`nvidia-smi`)")
    raise UsageError(f"{few}; give `--gpus-per-node {num_gpus}`, or look for GPUs that are lost (`nvidia-smi`)")


def main(arguments: Sequence[str]) -> int:
    """Run one node of a launch."""
    parser = argparse.ArgumentParser(description="One node of a launch; slurm/train.sbatch starts it on every node.")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("launch", type=Path)
    given = parser.parse_args(arguments)
    try:
        return run_node(RunDir(given.run_dir), given.launch, read_node())
    except HarnessError as error:
        complain(error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
