"""The environment variables through which a process learns its rank from a launcher. Imports no torch."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

LOOPBACK = "127.0.0.1"
HEARTBEATS = "HARNESS_HEARTBEATS"
"""Variable with the folder for the heartbeats of a node's ranks; empty if nobody gathers them."""
COLLECTIVES_DUMP = "TORCH_FR_DUMP_TEMP_FILE"
"""Torch's variable with the beginning of the path of a rank's last collectives; the rank follows."""
LOG_LABEL = "HARNESS_LOG_LABEL"
"""Variable with what a rank writes before each of its lines, because it shares its log with others."""
ALERT_URLS = "HARNESS_ALERT_URLS"
"""Variable with further addresses of alerts, with spaces between them."""
_MOST_DIGITS = 9
"""Digits of a number of ranks; Python itself stops at 4,300."""
_MOST_PORT = 65534
"""The check of the nodes takes the port behind it."""
_STALE_PREFIXES = ("TORCHELASTIC_",)
_STALE_NAMES = ("GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE")


def alert_addresses(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the addresses of alerts that the environment names."""
    return tuple(environ.get(ALERT_URLS, "").split())


@dataclass(frozen=True, kw_only=True)
class ProcessRanks:
    """A process's place in the world, before any group exists."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def read_ranks(environ: Mapping[str, str] = os.environ) -> ProcessRanks | None:
    """Return the ranks from torchrun (RANK, WORLD_SIZE …) or srun (SLURM_PROCID …); None for a process started alone.

    A batch script or an interactive shell under Slurm also has SLURM_PROCID and SLURM_NTASKS; only a task of a job step
    with several tasks counts. Steps are taken to have as many tasks on every node.

    Raises:
        UsageError: The variables contradict each other, or do not say where the ranks meet.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        ranks = _torchrun_ranks(environ)
    elif "SLURM_PROCID" in environ and "SLURM_STEP_ID" in environ and _slurm_tasks(environ) > 1:
        ranks = _slurm_ranks(environ)
    else:
        return None
    if not 0 <= ranks.rank < ranks.world_size:
        raise UsageError(
            f"this process is given rank {ranks.rank} of {ranks.world_size}; ranks are 0 to world size - 1, "
            "check RANK and WORLD_SIZE"
        )
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environ]:
        raise UsageError(
            f"this process is rank {ranks.rank} of {ranks.world_size}, but {' and '.join(missing)} are not set; "
            "set them to the host of rank 0 and a free port of it, so that the ranks find each other"
        )
    _port(environ)
    return ranks


def worker_environment(
    ranks: ProcessRanks,
    *,
    master_port: int,
    num_threads: int,
    on_gpu: bool,
    master_address: str = LOOPBACK,
    environ: Mapping[str, str] = os.environ,
) -> dict[str, str]:
    """Return the environment of a worker on this machine: the inherited one, its ranks, and its resources.

    `num_threads` compute on the CPU, unless the user has set OMP_NUM_THREADS. Without GPUs, if all workers are on this
    machine, gloo talks over the loopback device, which works without a name service, unless the user has chosen one.
    """
    inherited = {name: value for name, value in environ.items() if not _is_stale(name)}
    defaults = {"OMP_NUM_THREADS": str(num_threads)}
    if not on_gpu and master_address == LOOPBACK:
        defaults["GLOO_SOCKET_IFNAME"] = "lo"
    return (
        defaults
        | inherited
        | {
            "RANK": str(ranks.rank),
            "WORLD_SIZE": str(ranks.world_size),
            "LOCAL_RANK": str(ranks.local_rank),
            "LOCAL_WORLD_SIZE": str(ranks.local_world_size),
            "MASTER_ADDR": master_address,
            "MASTER_PORT": str(master_port),
        }
    )


def environment_without_gpus(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a process that computes nothing: without GPUs, ranks and threads."""
    inherited = {name: value for name, value in environ.items() if not _is_stale(name)}
    return inherited | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class NodePlace:
    """This node's place among the nodes of a job step with one task a node, and where the ranks meet."""

    index: int
    count: int
    master_address: str
    master_port: int


def read_node(environ: Mapping[str, str] = os.environ) -> NodePlace:
    """Return the place that srun gave this task, and the meeting point that the batch script chose.

    Raises:
        UsageError: A variable is missing or no number.
    """
    if not environ.get("MASTER_ADDR"):
        raise UsageError("MASTER_ADDR is not set; slurm/train.sbatch sets it to the first node of the job")
    return NodePlace(
        index=_number(environ, "SLURM_NODEID"),
        count=_number(environ, "SLURM_STEP_NUM_NODES"),
        master_address=environ["MASTER_ADDR"],
        master_port=_port(environ),
    )


def node_name(environ: Mapping[str, str] = os.environ) -> str:
    """Name of this machine: as Slurm calls it within a job, so that it can be excluded there, otherwise its own."""
    return environ.get("SLURMD_NODENAME") or socket.gethostname()


def collectives_pipes(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the prefix of the pipes through which torch is asked for its last collectives, `<prefix><rank>.pipe`.

    slurm/environment.sh sets it; None if it is not set.
    """
    return environ.get("TORCH_NCCL_DEBUG_INFO_PIPE_FILE")


def collectives_dump(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the beginning of the path of a rank's last collectives, where the environment chooses one."""
    return environ.get(COLLECTIVES_DUMP) or None


def log_label(environ: Mapping[str, str] = os.environ) -> str:
    """Return what this rank writes before each of its lines; empty if nobody shares its log."""
    return environ.get(LOG_LABEL, "")


def heartbeat_folder(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return the folder in which the launcher of this node gathers heartbeats; None if none does."""
    folder = environ.get(HEARTBEATS)
    return Path(folder) if folder else None


def names_set(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the environment variables that are set to something."""
    return [name for name, value in environ.items() if value]


def job_id(environ: Mapping[str, str] = os.environ) -> str | None:
    """Number of the Slurm job that this process runs in, None outside of one."""
    return environ.get("SLURM_JOB_ID")


def restart_count(environ: Mapping[str, str] = os.environ) -> int:
    """Return how often Slurm has started this job again; 0 outside of one.

    Raises:
        UsageError: The variable is no number.
    """
    return _number(environ, "SLURM_RESTART_COUNT") if environ.get("SLURM_RESTART_COUNT") else 0


def _torchrun_ranks(environ: Mapping[str, str]) -> ProcessRanks:
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE")
    local_world_size = _number(environ, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in environ else world_size
    local_rank = _number(environ, "LOCAL_RANK") if "LOCAL_RANK" in environ else rank % max(1, local_world_size)
    return ProcessRanks(rank=rank, world_size=world_size, local_rank=local_rank, local_world_size=local_world_size)


def _slurm_tasks(environ: Mapping[str, str]) -> int:
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    return next((_number(environ, name) for name in names if name in environ), 1)


def _slurm_ranks(environ: Mapping[str, str]) -> ProcessRanks:
    world_size = _slurm_tasks(environ)
    per_node = re.match(r"[0-9]+", environ.get("SLURM_STEP_TASKS_PER_NODE", ""))  # such as 8(x4)
    return ProcessRanks(
        rank=_number(environ, "SLURM_PROCID"),
        world_size=world_size,
        local_rank=_number(environ, "SLURM_LOCALID"),
        local_world_size=int(per_node[0]) if per_node else world_size,
    )


def _number(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        allowed = f"a whole number of at most {_MOST_DIGITS} digits" if text.isdecimal() else "a whole number"
        raise UsageError(
            f"the environment variable {name} is {text[:80]!r}; it must be {allowed}, or not be set at all"
        )
    return int(text)


def _port(environ: Mapping[str, str]) -> int:
    port = _number(environ, "MASTER_PORT")
    if not 1 <= port <= _MOST_PORT:
        raise UsageError(
            f"the environment variable MASTER_PORT is {port}; it must be a port from 1 to {_MOST_PORT} that is free, "
            "and so must the one behind it"
        )
    return port


def _is_stale(name: str) -> bool:
    """Return whether a variable of an outer torchrun would mislead a worker that this launcher starts."""
    return name.startswith(_STALE_PREFIXES) or name in _STALE_NAMES
