from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.parallel.environment import ProcessRanks, job_id, read_ranks, worker_environment

MEETING_POINT = {"MASTER_ADDR": "node07", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"RANK": "3"}, None),
        ({"WORLD_SIZE": "3"}, None),
        (
            {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", **MEETING_POINT},
            ProcessRanks(rank=9, world_size=16, local_rank=1, local_world_size=8),
        ),
        (
            {"RANK": "3", "WORLD_SIZE": "4", **MEETING_POINT},
            ProcessRanks(rank=3, world_size=4, local_rank=3, local_world_size=4),
        ),
        # A batch script, or a shell in an allocation: no job step, no rank.
        ({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "16"}, None),
        # `srun --pty bash`: a step of one task starts the workers itself.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}, None),
        (
            {
                "SLURM_PROCID": "9",
                "SLURM_LOCALID": "1",
                "SLURM_STEP_ID": "0",
                "SLURM_STEP_NUM_TASKS": "16",
                "SLURM_NTASKS": "32",
                "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
                **MEETING_POINT,
            },
            ProcessRanks(rank=9, world_size=16, local_rank=1, local_world_size=8),
        ),
        (
            {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", **MEETING_POINT},
            ProcessRanks(rank=1, world_size=2, local_rank=1, local_world_size=2),
        ),
    ],
)
def test_ranks_are_read(environ: dict[str, str], expected: ProcessRanks | None) -> None:
    assert read_ranks(environ) == expected


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        (
            {"RANK": "one", "WORLD_SIZE": "4"},
            "the environment variable RANK is 'one'; it must be a whole number, or not be set at all",
        ),
        (
            {"RANK": "4", "WORLD_SIZE": "4", **MEETING_POINT},
            "this process is given rank 4 of 4; ranks are 0 to world size - 1, check RANK and WORLD_SIZE",
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
            "this process is rank 0 of 4, but MASTER_ADDR and MASTER_PORT are not set; set them to the host of rank 0 "
            "and a free port of it, so that the ranks find each other",
        ),
    ],
)
def test_what_contradicts_itself_is_a_clear_error(environ: dict[str, str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_ranks(environ)
    assert str(caught.value) == text


def worker(environ: dict[str, str], *, on_gpu: bool = False) -> dict[str, str]:
    ranks = ProcessRanks(rank=1, world_size=4, local_rank=1, local_world_size=4)
    return worker_environment(ranks, master_port=1234, num_threads=2, on_gpu=on_gpu, environ=environ)


def test_a_worker_reads_back_the_ranks_it_was_given() -> None:
    environment = worker({"PATH": "/bin", "RANK": "7", "MASTER_ADDR": "elsewhere", "SLURM_PROCID": "0"})
    assert read_ranks(environment) == ProcessRanks(rank=1, world_size=4, local_rank=1, local_world_size=4)
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "1234")
    assert environment["PATH"] == "/bin"


def test_the_users_choice_of_threads_and_devices_is_kept() -> None:
    assert worker({})["OMP_NUM_THREADS"] == "2"
    assert worker({"OMP_NUM_THREADS": "5"})["OMP_NUM_THREADS"] == "5"
    assert worker({})["GLOO_SOCKET_IFNAME"] == "lo"
    assert worker({"GLOO_SOCKET_IFNAME": "eth0"})["GLOO_SOCKET_IFNAME"] == "eth0"
    assert "GLOO_SOCKET_IFNAME" not in worker({}, on_gpu=True)


def test_what_an_outer_torchrun_left_behind_is_taken_out() -> None:
    environment = worker({"TORCHELASTIC_RUN_ID": "x", "GROUP_RANK": "1", "ROLE_RANK": "1", "TORCH_LOGS": "all"})
    assert environment.keys().isdisjoint({"TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_RANK"})
    assert environment["TORCH_LOGS"] == "all"


def test_job_id() -> None:
    assert job_id({"SLURM_JOB_ID": "4711"}) == "4711"
    assert job_id({}) is None
