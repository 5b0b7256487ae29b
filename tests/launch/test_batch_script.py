"""What slurm/train.sbatch asks of Slurm, word by word, with a stand-in for Slurm's commands: containers above all."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

SLURM_DIR = Path(__file__).parents[2] / "slurm"
GOLDEN = Path(__file__).parent / "container_steps.txt"

SRUN = """\
#!/bin/bash
printf '%s\\n' srun "${@/#/  }" >> "$CALLS"
case "$*" in
*"job begin"*) echo "$LAUNCH"; exit "$BEGIN_CODE" ;;
*launch.node*) until [[ -z $TRAINS_UNTIL ]] || (($(grep -c "$TRAINS_UNTIL" "$CALLS") > 1)); do :; done ;;
*"job end"*) echo "$BAD_NODES"; exit "$END_CODE" ;;
esac
"""
SCONTROL = """\
#!/bin/bash
case "$*" in
"show hostnames"*) printf 'localhost\\nn2\\n' ;;
*"show job"*) echo "JobState=RUNNING Reason=None Requeue=1 Restarts=3 ExcNodeList=n9 NodeList=n[1-2]" ;;
*) { echo scontrol; printf '  %s\\n' "$@"; } >> "$CALLS" ;;
esac
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder with a launch, and Slurm's commands."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sleep": "#!/bin/bash\n"}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    for folder in ("launch", "run/signals", "work"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def run_script(site: Path, image: str = "", watch: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code, log and calls of Slurm's commands, with the folder of the test as SITE and the source as SOURCE."""
    variables = {
        "PATH": f"{site / 'programs'}:{os.environ['PATH']}",
        "CALLS": str(site / "calls"),
        "LAUNCH": str(site / "launch"),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "BEGIN_CODE": "0",
        "END_CODE": "0",
        "BAD_NODES": "",
        "TRAINS_UNTIL": "",
        **environment,
    }
    mounts = "/shared:/shared,/data:/data" if image else ""
    arguments = (site / "run", site / "launch", "/env/bin/python", SLURM_DIR, "", image, mounts, watch)
    with subprocess.Popen(
        ("bash", SLURM_DIR / "train.sbatch", *map(str, arguments)),
        cwd=site / "work",
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as script:
        try:
            log, _ = script.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(script.pid, signal.SIGKILL)  # a watcher that is left over would be started for ever
    calls = (site / "calls").read_text() if (site / "calls").exists() else ""
    return script.returncode, log, calls.replace(str(site), "SITE")


def test_in_a_container_every_python_starts_by_pyxis(site: Path, request: pytest.FixtureRequest) -> None:
    code, log, calls = run_script(site, image="/images/torch.sqsh")
    assert code == 0, log
    if request.config.getoption("--write-golden"):
        GOLDEN.write_text(calls)
    assert calls == GOLDEN.read_text()
    assert calls.count("  --container-image=/images/torch.sqsh\n") == calls.count("srun\n") == 3


def test_steps_beside_training_ask_for_no_gpu_of_a_job_that_asked_in_all(site: Path) -> None:
    """Slurm passes `--gpus=16` of the job on to each step, and one node does not have them."""
    _, log, calls = run_script(site, image="image", SLURM_GPUS="16")
    beside = [step for step in calls.split("srun\n") if "--overlap" in step]
    assert len(beside) == 2, log
    assert all("  --gres=none\n" in step for step in beside)
    assert calls.count("--gres=none") == 2


def test_the_watcher_is_in_the_container_too_is_started_again_and_ends_with_training(site: Path) -> None:
    _, log, calls = run_script(site, image="registry.example/torch:25.01", watch="watch", TRAINS_UNTIL="harness.cli")
    assert calls.count("harness.cli\n  watch\n") >= 2, log
    assert calls.count("  --container-image=registry.example/torch:25.01\n") == calls.count("srun\n")


def test_nodes_that_were_excluded_before_stay_excluded(site: Path) -> None:
    _, log, calls = run_script(site, image="image", END_CODE="75", BAD_NODES="n2")
    assert "scontrol\n  requeue\n  7\nscontrol\n  update\n  JobId=7\n  ExcNodeList=n9,n2\n" in calls
    assert "excluded from now on: n9,n2" in log


def test_without_bad_nodes_nothing_is_excluded(site: Path) -> None:
    _, _, calls = run_script(site, image="image", END_CODE="75")
    assert calls.endswith("scontrol\n  requeue\n  7\n")


def test_a_start_that_finds_what_is_left_of_the_one_before_comes_back(site: Path) -> None:
    code, log, calls = run_script(site, image="image", BEGIN_CODE="75")
    assert code == 75, log
    assert calls.endswith("scontrol\n  requeue\n  7\n")
    assert "launch.node" not in calls


def test_a_start_that_is_refused_does_not_come_back(site: Path) -> None:
    code, _, calls = run_script(site, image="image", BEGIN_CODE="64")
    assert code == 64
    assert "requeue" not in calls
