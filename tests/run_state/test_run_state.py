"""Where a run stands: every situation of its life has one word, and `gone` is never said of a run that comes back."""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.run.event_types import Exit
from harness.run.heartbeats import Activity, Beat
from harness.run.launches import Failure, LaunchEnding, LaunchRecord, LaunchStart, Submission
from harness.run.lock import Owner
from harness.run.records import StepRecord
from harness.run_state.facts import Facts
from harness.run_state.slurm_job import Life, SlurmJob
from harness.run_state.state import State, Word, late_text, state_of
from harness.text import duration_text

NOW = 1_800_000_000.0
OWNER = Owner(host="n1", pid=7, process=None, job_id="42", started="2026-11-30 10:00:00")


def record_of(tmp_path: Path, *, job_id: str | None = "42", ended: LaunchEnding | None = None) -> LaunchRecord:
    """A launch that has started 100 s ago."""
    folder = tmp_path / "0001"
    folder.mkdir(exist_ok=True)
    (folder / "launch.json").touch()
    os.utime(folder / "launch.json", (NOW - 100, NOW - 100))
    return LaunchRecord(
        folder=folder, submission=None, launch=LaunchStart(job_id=job_id, submission="0001"), ended=ended
    )


def submitted(tmp_path: Path, job_id: str | None = "42") -> LaunchRecord:
    return LaunchRecord(folder=tmp_path / "0002", submission=Submission(job_id=job_id), launch=None, ended=None)


def job(life: Life, word: str = "", reason: str | None = None, restarts: int = 0) -> SlurmJob:
    return SlurmJob(job_id="42", life=life, word=word or life.upper(), reason=reason, restarts=restarts)


def beat(activity: Activity, *, age_s: float = 2.0, rank: int = 0, step: int = 9) -> Beat:
    since = NOW - 30
    return Beat(rank=rank, host="n1", pid=1, step=step, activity=activity, since=since, time=NOW - age_s, spent_s={})


def step(number: int, time: float) -> StepRecord:
    return StepRecord(
        attempt=0, step=number, time=time, phase="main", consumed_samples=0, consumed_tokens=0, batch_hash=0, values={}
    )


def left(code: int) -> Exit:
    return Exit(attempt=0, step=9, time=NOW - 5, exit_code=code, reason="why")


def started(launch: LaunchRecord, **changes: Any) -> State:
    return state_of(Facts(**{"now": NOW, "newest": launch, "started": launch, "num_starts": 1, **changes}))


@pytest.mark.parametrize(
    ("slurm", "word", "reason"),
    [
        (job(Life.WAITS, "PENDING", "Priority"), Word.QUEUED, "waits in the queue (Priority)"),
        (job(Life.HELD, "PENDING", "JobHeldUser"), Word.HELD, "a person holds it"),
        (job(Life.HELD, "PENDING", "JobHeldAdmin"), Word.HELD, "an administrator of the cluster holds it"),
        (job(Life.RUNS, "CONFIGURING"), Word.STARTING, "the nodes are prepared (CONFIGURING)"),
        (job(Life.CANCELLED, "CANCELLED"), Word.STOPPED, "cancelled before it started"),
        (job(Life.OVER, "FAILED"), Word.FAILED, "ended before it opened a launch (FAILED)"),
        (job(Life.FORGOTTEN), Word.GONE, "it never started"),
        (None, Word.QUEUED, "Slurm does not answer here"),
    ],
)
def test_a_job_that_has_not_started(tmp_path: Path, slurm: SlurmJob | None, word: Word, reason: str) -> None:
    newest = submitted(tmp_path)
    state = state_of(Facts(now=NOW, newest=newest, started=None, slurm=slurm))
    assert state.word is word
    assert reason in str(state.reason)
    by_admin = slurm is not None and slurm.reason == "JobHeldAdmin"
    assert state.needs_person == (word in (Word.FAILED, Word.GONE) or by_admin)


def test_a_submission_without_a_number_is_being_handed_over(tmp_path: Path) -> None:
    newest = submitted(tmp_path, None)
    assert state_of(Facts(now=NOW, newest=newest, started=None)).reason == "it is being handed to Slurm"


@pytest.mark.parametrize(
    ("activity", "word", "reason"),
    [
        (Activity.START, Word.STARTING, "the ranks join, open the data and build the model"),
        (Activity.LOAD, Word.STARTING, "the ranks read the checkpoint"),
        (Activity.DATA, Word.TRAINING, "process 7 on n1"),
        (Activity.FORWARD_BACKWARD, Word.TRAINING, "process 7 on n1"),
        (Activity.EVALUATE, Word.EVALUATING, "process 7 on n1"),
        (Activity.SAVE, Word.SAVING, "process 7 on n1"),
    ],
)
def test_a_run_that_is_alive_does_what_most_ranks_do(
    tmp_path: Path, activity: Activity, word: Word, reason: str
) -> None:
    beats = (beat(activity), beat(activity, rank=1), beat(Activity.OPTIMIZER, rank=2))
    state = started(record_of(tmp_path), owner=OWNER, beats=beats)
    assert state.word is word
    assert reason in str(state.reason)
    assert (state.since == NOW - 30) == (word is not Word.TRAINING)
    assert not state.needs_person


def test_before_the_first_heartbeat_its_processes_start(tmp_path: Path) -> None:
    state = started(record_of(tmp_path), owner=OWNER)
    assert (state.word, state.since) == (Word.STARTING, NOW - 100)
    state = started(record_of(tmp_path), slurm=job(Life.RUNS, "RUNNING"))
    assert (state.word, state.reason) == (Word.STARTING, "processes start, and check the nodes")
    state = started(record_of(tmp_path, job_id=None))
    assert (state.word, state.reason) == (Word.STARTING, "its processes start")


@pytest.mark.parametrize("beats", [(), (beat(Activity.START),), (beat(Activity.LOAD),)])
def test_a_launch_that_has_made_a_step_trains_whatever_older_heartbeats_say(
    tmp_path: Path, beats: tuple[Beat, ...]
) -> None:
    launch = record_of(tmp_path)
    assert started(launch, owner=OWNER, beats=beats, records=(step(7, NOW - 101),)).word is Word.STARTING
    state = started(launch, owner=OWNER, beats=beats, records=(step(7, NOW - 1),))
    assert (state.word, state.reason) == (Word.TRAINING, str(OWNER))


def test_a_run_that_makes_no_steps_says_so(tmp_path: Path) -> None:
    records = tuple(step(number, NOW - 80 + number * 0.3) for number in range(1, 30))
    state = started(record_of(tmp_path), owner=OWNER, beats=(beat(Activity.DATA),), records=records)
    assert state.word is Word.TRAINING
    assert str(state.reason).startswith("no step since 71 s (usual 0.3 s); process 7")
    assert state.needs_person


def test_a_slow_run_is_not_late(tmp_path: Path) -> None:
    launch = record_of(tmp_path)
    slow = Facts(now=NOW, newest=launch, started=launch, records=(step(1, NOW - 90), step(2, NOW - 70)))
    assert (slow.step_age_s, slow.usual_step_s, late_text(slow)) == (70, 20, None)


def test_ranks_that_have_left_while_the_launcher_lives_are_ending(tmp_path: Path) -> None:
    assert started(record_of(tmp_path), owner=OWNER, exit=left(0)).word is Word.ENDING
    assert started(record_of(tmp_path), slurm=job(Life.RUNS), have_left=True).word is Word.ENDING
    assert started(record_of(tmp_path), slurm=job(Life.LEAVES)).word is Word.ENDING


@pytest.mark.parametrize(
    ("slurm", "word"),
    [
        (job(Life.WAITS, "PENDING", "BeginTime"), Word.REQUEUED),
        (job(Life.HELD, "PENDING", "JobHeldUser"), Word.HELD),
        (job(Life.SUSPENDED, "SUSPENDED"), Word.HELD),
        (job(Life.RUNS, "RUNNING", restarts=1), Word.STARTING),
        (job(Life.CANCELLED, "CANCELLED"), Word.STOPPED),
        (job(Life.OVER, "NODE_FAIL"), Word.GONE),
        (job(Life.FORGOTTEN), Word.GONE),
        (None, Word.UNKNOWN),
    ],
)
def test_a_job_that_left_no_word_is_what_slurm_says(tmp_path: Path, slurm: SlurmJob | None, word: Word) -> None:
    quiet = (beat(Activity.DATA, age_s=100),)
    state = started(record_of(tmp_path), beats=quiet, slurm=slurm)
    assert (state.word, state.needs_person) == (word, word is Word.GONE)


def test_ranks_that_are_silent_while_their_job_runs_are_training_without_a_sign_of_life(tmp_path: Path) -> None:
    state = started(record_of(tmp_path), beats=(beat(Activity.DATA, age_s=100),), slurm=job(Life.RUNS, "RUNNING"))
    assert (state.word, state.reason) == (Word.TRAINING, "no rank has given a sign of life for 100 s")


@pytest.mark.parametrize(
    ("code", "word", "reason"),
    [
        (0, Word.FINISHED, "why"),
        (75, Word.STOPPED, "to be continued; why"),
        (77, Word.STOPPED, "by a person; why"),
        (76, Word.FAILED, "a person must look; why"),
        (70, Word.FAILED, "why"),
    ],
)
def test_outside_of_slurm_the_last_word_counts(tmp_path: Path, code: int, word: Word, reason: str) -> None:
    state = started(record_of(tmp_path, job_id=None), exit=left(code))
    assert (state.word, state.reason, state.needs_person) == (word, reason, word is Word.FAILED)


def test_what_a_person_started_within_a_job_has_the_last_word_itself(tmp_path: Path) -> None:
    launch = replace(record_of(tmp_path), launch=LaunchStart(job_id="42"))
    assert started(launch, exit=left(0), slurm=job(Life.RUNS, "RUNNING")).word is Word.FINISHED


def test_outside_of_slurm_a_silent_run_is_gone(tmp_path: Path) -> None:
    state = started(record_of(tmp_path, job_id=None), beats=(beat(Activity.DATA, age_s=100),))
    assert (state.word, state.needs_person) == (Word.GONE, True)


CAUSE = Failure(rank=1, text="rank 1 was killed by SIGKILL", return_code=-9)


def ending(action: str, code: int, *, alert: bool = False) -> LaunchEnding:
    cause = CAUSE if code == 70 else None
    return LaunchEnding(exit_code=code, action=action, alert=alert, reason="decided", cause=cause)


@pytest.mark.parametrize(
    ("ended", "slurm", "word", "reason"),
    [
        (ending("stop", 0), None, Word.FINISHED, None),
        (ending("stop", 0), job(Life.OVER, "COMPLETED"), Word.FINISHED, None),
        (ending("stop", 77), None, Word.STOPPED, "decided"),
        (ending("stop", 70, alert=True), None, Word.FAILED, "decided; first cause: rank 1 was killed by SIGKILL"),
        (ending("stop", 143), job(Life.CANCELLED), Word.STOPPED, "decided"),
        (ending("stop", 143), job(Life.WAITS, "PENDING", "BeginTime"), Word.REQUEUED, "decided; job 42 waits"),
        (ending("requeue", 75), job(Life.RUNS, "RUNNING"), Word.REQUEUED, "decided"),
        (ending("requeue", 75), job(Life.LEAVES), Word.REQUEUED, "decided"),
        (ending("requeue", 75), job(Life.WAITS, "PENDING", "BeginTime"), Word.REQUEUED, "decided; job 42 waits"),
        (ending("requeue", 75), job(Life.HELD, "PENDING", "JobHeldAdmin"), Word.HELD, "an administrator"),
        (ending("requeue", 75), job(Life.RUNS, "RUNNING", restarts=1), Word.STARTING, "the job begins again"),
        (ending("requeue", 75), job(Life.CANCELLED), Word.STOPPED, "cancelled while it was to come back"),
        (ending("requeue", 75), job(Life.OVER, "FAILED"), Word.GONE, "was to come back (decided), and does not"),
        (ending("requeue", 75), None, Word.REQUEUED, "decided"),
    ],
)
def test_a_launch_whose_end_was_decided_upon(
    tmp_path: Path, ended: LaunchEnding, slurm: SlurmJob | None, word: Word, reason: str | None
) -> None:
    state = started(record_of(tmp_path, ended=ended), slurm=slurm)
    assert state.word is word
    assert reason is None or str(state.reason).startswith(reason) or reason in str(state.reason)
    by_admin = slurm is not None and slurm.reason == "JobHeldAdmin"
    assert state.needs_person == (word in (Word.FAILED, Word.GONE) or by_admin)


def test_an_end_that_is_being_decided_upon_is_ending(tmp_path: Path) -> None:
    launch = record_of(tmp_path, ended=LaunchEnding(exit_code=70))
    assert started(launch, slurm=job(Life.RUNS)).word is Word.ENDING


def test_a_job_behind_one_that_trains_does_not_hide_it(tmp_path: Path) -> None:
    launch = record_of(tmp_path)
    facts = Facts(now=NOW, newest=submitted(tmp_path, "43"), started=launch, owner=OWNER, beats=(beat(Activity.DATA),))
    assert state_of(facts).word is Word.TRAINING


def test_a_new_job_of_a_run_that_ended_is_what_counts(tmp_path: Path) -> None:
    launch = record_of(tmp_path, ended=ending("stop", 70, alert=True))
    facts = Facts(
        now=NOW, newest=submitted(tmp_path, "43"), started=launch, slurm=job(Life.WAITS, "PENDING", "Priority")
    )
    assert state_of(facts).word is Word.QUEUED


def test_gone_is_never_said_of_a_run_that_lives_or_comes_back(tmp_path: Path) -> None:
    """Every combination of the facts: whoever pages on `gone` and `failed` pages on nothing else."""
    lives = [None, *(job(life, restarts=restarts) for life in Life for restarts in (0, 1))]
    ends = [
        None,
        LaunchEnding(exit_code=70),
        *(ending(action, code) for action in ("stop", "requeue") for code in (0, 70, 75)),
    ]
    beats = ((), (beat(Activity.DATA),), (beat(Activity.DATA, age_s=99),), (beat(Activity.SAVE, age_s=99),))
    seen = set()
    for slurm, ended, some, owner, last in itertools.product(
        lives, ends, beats, (None, OWNER), (None, left(0), left(70))
    ):
        state = started(record_of(tmp_path, ended=ended), slurm=slurm, beats=some, owner=owner, exit=last)
        seen.add(state.word)
        may_come_back = slurm is None or slurm.life in (Life.WAITS, Life.HELD, Life.RUNS, Life.SUSPENDED, Life.LEAVES)
        is_alive = ended is None and (owner is not None or any(not each.is_quiet(NOW) for each in some))
        if state.word is Word.GONE:
            assert not may_come_back, (slurm, ended, some, owner, last)
            assert not is_alive
    assert Word.GONE in seen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (44, "44 s"), (130, "2 min 10 s"), (3600, "1 h 0 min"), (90061, "1 d 1 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
