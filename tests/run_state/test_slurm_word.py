"""What Slurm says about a job, in its own words and in ours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.run_state.slurm_job import Life, SlurmJob, ask_slurm, life_of, parse_scontrol

LINE = (
    "JobId=42 JobName=small UserId=me(1000) Priority=4294901758 JobState={state} Reason={reason} Dependency=(null) "
    "Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:0 StartTime={start} EndTime=Unknown\n"
)


@pytest.mark.parametrize(
    ("state", "reason", "life"),
    [
        ("PENDING", "Priority", Life.WAITS),
        ("PENDING", "BeginTime", Life.WAITS),
        ("PENDING", "Dependency", Life.WAITS),
        ("PENDING", "JobHeldUser", Life.HELD),
        ("PENDING", "JobHeldAdmin", Life.HELD),
        ("PENDING", "DependencyNeverSatisfied", Life.HELD),
        ("PENDING", "launch_failed_requeued_held", Life.HELD),
        ("REQUEUE_HOLD", None, Life.HELD),
        ("SPECIAL_EXIT", None, Life.HELD),
        ("CONFIGURING", None, Life.RUNS),
        ("RUNNING", None, Life.RUNS),
        ("SUSPENDED", None, Life.SUSPENDED),
        ("COMPLETING", None, Life.LEAVES),
        ("CANCELLED", None, Life.CANCELLED),
        ("COMPLETED", None, Life.OVER),
        ("TIMEOUT", None, Life.OVER),
        ("NODE_FAIL", None, Life.OVER),
        ("OUT_OF_MEMORY", None, Life.OVER),
        ("SOMETHING_NEW", None, Life.OVER),
    ],
)
def test_each_word_of_slurm_is_a_place_in_a_jobs_life(state: str, reason: str | None, life: Life) -> None:
    assert life_of(state, reason) is life


def test_a_job_that_waits_says_for_what_and_until_when() -> None:
    job = parse_scontrol("42", LINE.format(state="PENDING", reason="Resources", start="2026-11-30T18:00:00"))
    assert (job.life, job.restarts) == (Life.WAITS, 2)
    assert job.in_words == "job 42 waits in the queue (Resources, expected to start at 2026-11-30T18:00:00)"


def test_a_held_job_says_by_whom_and_what_lets_it_go() -> None:
    by_me = parse_scontrol("42", LINE.format(state="PENDING", reason="JobHeldUser", start="Unknown"))
    assert by_me.is_held_by_person
    assert by_me.in_words == "a person holds it; `scontrol release 42` lets it go on"
    by_admin = parse_scontrol("42", LINE.format(state="PENDING", reason="JobHeldAdmin", start="Unknown"))
    assert not by_admin.is_held_by_person
    assert by_admin.in_words == "an administrator of the cluster holds it"


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, **bodies: str) -> None:
    """Puts programs of Slurm on the path that say what a test wants."""
    for name, body in bodies.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


UNKNOWN = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"


def test_where_slurm_is_not_or_does_not_answer_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask_slurm("42") is None
    programs(tmp_path, monkeypatch, scontrol="echo 'Unable to contact slurm controller' >&2; exit 1")
    assert ask_slurm("42") is None


def test_a_job_that_the_controller_has_forgotten_is_in_the_accounts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, scontrol=UNKNOWN, sacct="exit 1")
    assert ask_slurm("42") == SlurmJob(job_id="42", life=Life.FORGOTTEN, word="")
    programs(tmp_path, monkeypatch, scontrol=UNKNOWN, sacct="echo 'CANCELLED by 1000'")
    assert ask_slurm("42") == SlurmJob(job_id="42", life=Life.CANCELLED, word="CANCELLED by 1000")
    programs(tmp_path, monkeypatch, scontrol=UNKNOWN, sacct="echo NODE_FAIL")
    found = ask_slurm("42")
    assert found is not None
    assert (found.life, found.in_words) == (Life.OVER, "Slurm says of job 42: NODE_FAIL")
    assert os.environ["PATH"].startswith(str(tmp_path))
