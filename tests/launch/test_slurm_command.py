"""The sbatch command, word by word, and time limits in Slurm's spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config.operation import LaunchConfig
from harness.errors import UsageError
from harness.launch.gpu_request import gpu_flag_problems
from harness.launch.slurm import (
    Job,
    dependency_problems,
    flag_problems,
    sbatch_command,
    seconds_of,
    submit,
    variable_problems,
)


def job(dependency: str | None = None, **settings: Any) -> Job:
    return Job(
        name="llama",
        run_dir=Path("/shared/runs/llama"),
        submission=Path("/shared/runs/llama/launches/0001"),
        working_directory=Path("/shared/project"),
        settings=LaunchConfig(**settings),
        nodes=16,
        python="/shared/venv/bin/python",
        slurm_dir=Path("/shared/harness/slurm"),
        dependency=dependency,
    )


def test_the_plain_command() -> None:
    assert sbatch_command(job()) == [
        "sbatch",
        "--parsable",
        "--requeue",
        "--exclusive",
        "--mem=0",
        "--job-name=llama",
        "--nodes=16",
        "--ntasks-per-node=1",
        "--gpus-per-node=8",
        "--time=24:00:00",
        "--signal=B:USR2@600",
        "--open-mode=append",
        "--output=/shared/runs/llama/launches/job_%j.log",
        "--chdir=/shared/project",
        "--export=HOME,LANG,LOGNAME,PATH,USER",
        "/shared/harness/slurm/train.sbatch",
        "/shared/runs/llama",
        "/shared/runs/llama/launches/0001",
        "/shared/venv/bin/python",
        "/shared/harness/slurm",
        "",
        "",
        "",
        "watch",
    ]


def test_everything_that_can_be_asked_for() -> None:
    command = sbatch_command(
        job(
            "afterany:7",
            partition="gpu",
            account="lm",
            gpus_per_node=0,
            whole_nodes=False,
            environment_file=Path("env/modules.sh"),
            container_image="/images/torch.sqsh",
            container_mounts=("/data:/data",),
            watch=False,
            sbatch_flags=("--qos=high", "--comment=a b; c"),
        )
    )
    flags, arguments = command[:-8], command[-8:]
    assert {"--partition=gpu", "--account=lm", "--dependency=afterany:7", "--qos=high"} <= set(flags)
    assert "--comment=a b; c" in flags  # one argument: no shell ever sees it
    assert not [flag for flag in flags if flag.startswith(("--gpus", "--exclusive", "--mem"))]
    assert arguments[4:] == [
        "/shared/project/env/modules.sh",
        "/images/torch.sqsh",
        "/shared/runs/llama:/shared/runs/llama,/shared/project:/shared/project,/shared/harness:/shared/harness,/data:/data",
        "",
    ]


@pytest.mark.parametrize(
    "flags",
    [
        ("--gres=gpu:a100:8",),
        ("--gres=gpu:8",),
        ("--gres=nvme:1,gpu:a100:8",),
        ("--gres=gpu:a100:4,gpu:h100:4",),
        ("--gpus-per-node=a100:8",),
        ("--gpus-per-node=8",),
        ("--gpus=128",),
        ("--gpus=a100:128",),
        ("--gpus-per-task=a100:8",),
        ("--gpus-per-socket=a100:4", "--sockets-per-node=2"),
        ("--tres-per-node=gres/gpu:a100:8",),
        ("--tres-per-node=gres/gpu:a100=8",),
    ],
)
def test_a_request_for_gpus_as_the_cluster_wants_it_takes_the_place_of_the_own(flags: tuple[str, ...]) -> None:
    asked = job(sbatch_flags=flags)
    assert gpu_flag_problems(asked.settings, asked.nodes) == []
    found = [word for word in sbatch_command(asked) if word.startswith(("--g", "--tres"))]
    assert found == [flag for flag in flags if not flag.startswith("--sockets")]


def test_other_flags_leave_the_own_request() -> None:
    asked = job(sbatch_flags=("--gres=nvme:1", "--gpu-bind=none", "--gpu-freq=high"))
    assert gpu_flag_problems(asked.settings, asked.nodes) == []
    assert "--gpus-per-node=8" in sbatch_command(asked)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"sbatch_flags": ("--gres=gpu:a100:4",)},
            "--gres=gpu:a100:4 asks for 4 GPUs on a node, but launch.gpus_per_node is 8; the numbers must agree: set "
            "launch.gpus_per_node to 4 (--gpus-per-node 4), or correct the flag",
        ),
        ({"sbatch_flags": ("--gres=gpu",)}, "--gres=gpu asks for 1 GPUs on a node, but launch.gpus_per_node is 8"),
        ({"sbatch_flags": ("--gpus-per-node=a100",)}, "--gpus-per-node=a100 asks for 1 GPUs on a node"),
        ({"sbatch_flags": ("--gres=gpu:8",), "gpus_per_node": 0}, "--gres=gpu:8 asks for 8 GPUs on a node, but"),
        ({"sbatch_flags": ("--gpus=8",)}, "--gpus=8 asks for 8 GPUs in all, but 16 nodes with launch.gpus_per_node 8"),
        ({"sbatch_flags": ("--gpus-per-socket=4",)}, "--gpus-per-socket=4 needs --sockets-per-node=N beside it"),
        ({"sbatch_flags": ("--gres=gpu:8", "--gpus=128")}, "--gres=gpu:8 and --gpus=128 both ask for GPUs; give one"),
    ],
)
def test_requests_for_other_numbers_of_gpus_are_refused(settings: dict[str, Any], problem: str) -> None:
    asked = job(**settings)
    (found,) = gpu_flag_problems(asked.settings, asked.nodes)
    assert found.startswith(f"launch.sbatch_flags: {problem}")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("24:00:00", 86400),
        ("2-0", 172800),
        ("1-12:30", 131400),
        ("1-00:00:01", 86401),
    ],
)
def test_time_limits(text: str, seconds: int) -> None:
    assert LaunchConfig(time_limit=text).time_limit == text
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "1h", "1-", "-1", "24:00:00:00", "1 day", "unlimited"])
def test_other_time_limits_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="time_limit"):
        LaunchConfig(time_limit=text)


def test_flags_that_harness_sets_itself_are_refused_with_a_reason() -> None:
    assert flag_problems(("--qos=high", "--array=0-3", "--time=1", "--no-requeue")) == [
        "launch.sbatch_flags: --array is not allowed: a run is one job; for several runs call `harness launch` once "
        "for each configuration",
        "launch.sbatch_flags: --time is not allowed: set launch.time_limit",
        "launch.sbatch_flags: --no-requeue is not allowed: the run must come back by itself",
    ]


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--arr=0-3", "--arr is not allowed: sbatch takes it for --array; write the whole name"),
        ("--a=0-3", "--a is not allowed: sbatch takes it for --account, --array; write the whole name"),
        ("--expor=ALL", "--expor is not allowed: sbatch takes it for --export, --export-file; write the whole name"),
        ("--export-file=e", "--export-file is not allowed: set variables in launch.environment_file"),
        ("--no-req", "--no-req is not allowed: sbatch takes it for --no-requeue; write the whole name"),
        ("--gre=gpu:8", "--gre is not allowed: sbatch takes it for --gres; write the whole name"),
        ("--gpus-per-n=4", "--gpus-per-n is not allowed: sbatch takes it for --gpus-per-node; write the whole name"),
        ("--wra=touch", "--wra is not allowed: sbatch takes it for --wrap; write the whole name"),
        ("--wrap=touch /tmp/x", "--wrap is not allowed: a job of a run is slurm/train.sbatch"),
        ("--comment", "--comment needs a value: write it behind '='"),
        ("--commen", "--commen needs a value: write the whole name, and the value behind '='"),
    ],
)
def test_flags_cannot_hide_behind_abbreviations_nor_take_the_next_word(flag: str, problem: str) -> None:
    assert LaunchConfig(sbatch_flags=(flag,)).sbatch_flags == (flag,)
    assert flag_problems((flag,)) == [f"launch.sbatch_flags: {problem}"]


@pytest.mark.parametrize(
    "flag",
    ["--contiguous", "--hold", "--qos=high", "--time-min=1:00:00", "--exclude=n1", "--no-container-mount-home",
     "--nodelist=n[1-4]", "--mem=100G", "--get-user-env", "--gpu-bind=none", "--error=e.log", "--plugin-option=1"],
)  # fmt: skip
def test_whole_names_of_other_flags_are_taken(flag: str) -> None:
    assert flag_problems((flag,)) == []


def test_every_beginning_of_a_flag_of_ours_is_known() -> None:
    whole = {"--nodes", "--time", "--gpus", "--export", "--exclusive", "--array", "--dependency", "--wrap", "--signal"}
    for name in whole:
        for end in range(3, len(name)):
            assert flag_problems((f"{name[:end]}=1",)) or name[:end] in ("--gpus",), name[:end]


@pytest.mark.parametrize("flag", ["--array 0-3", "-a0-3", "-a", "-Ha0", "--array", "0-3"])
def test_two_words_and_short_flags_are_refused(flag: str) -> None:
    try:
        taken = LaunchConfig(sbatch_flags=(flag,))
    except ValueError:
        return
    assert flag_problems(taken.sbatch_flags)


def test_variables_that_sbatch_takes_for_flags_are_refused() -> None:
    assert variable_problems(["SBATCH_ACCOUNT", "HOME"]) == []
    assert variable_problems(["SBATCH_WAIT", "SBATCH_ARRAY_INX"]) == [
        "the environment variable SBATCH_ARRAY_INX is set, and sbatch takes it for a flag: a run is one job; for "
        "several runs call `harness launch` once for each configuration; unset SBATCH_ARRAY_INX",
        "the environment variable SBATCH_WAIT is set, and sbatch takes it for a flag: `harness launch` does not wait "
        "for the job; `harness status` tells where the run is; unset SBATCH_WAIT",
    ]


@pytest.mark.parametrize("dependency", ["afterany:1 --wrap=x", "", "a\nb", "afterany:\x1b[2J", "x" * 2000])
def test_dependencies_are_one_word(dependency: str) -> None:
    assert dependency_problems("afterok:4711?afterany:12") == []
    (problem,) = dependency_problems(dependency)
    assert problem.startswith("--dependency is '")
    assert problem.isprintable()


@pytest.mark.parametrize("flag", ["-a", "qos=high", "--qos high", "--qos=\n", "--"])
def test_flags_have_one_form(flag: str) -> None:
    with pytest.raises(ValueError, match="sbatch_flags"):
        LaunchConfig(sbatch_flags=(flag,))


def program(tmp_path: Path, body: str) -> str:
    path = tmp_path / "sbatch"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("answer", ["4711", "4711;cluster"])
def test_the_number_of_the_job_is_read(tmp_path: Path, answer: str) -> None:
    assert submit([program(tmp_path, f"echo '{answer}'")]) == "4711"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo 'sbatch: error: no such account' >&2; exit 1", "^Slurm refused the job: error: no such account$"),
        ("echo what", "^Slurm refused the job: what$"),
        ("printf '\\377'; exit 1", "^Slurm refused the job: "),
    ],
)
def test_a_refusal_is_told(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        submit([program(tmp_path, body)])


def test_without_slurm_it_is_said_where_to_go(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no `sbatch` here; call `harness launch` on a login node"):
        submit([str(tmp_path / "sbatch")])
