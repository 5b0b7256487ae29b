"""The state of a run at one moment: one word, the reason, and whether it needs a person (pure).

`gone` and `failed` mean that nothing will bring the run back by itself. Where Slurm could say more and does not answer,
the state is `unknown` rather than `gone`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from harness.errors import EXIT_FINISHED, EXIT_NEEDS_PERSON, EXIT_REQUEUE, EXIT_STOPPED_BY_PERSON
from harness.run.heartbeats import Activity, Beat
from harness.run.launches import LaunchEnding, LaunchRecord
from harness.run_state.facts import Facts
from harness.run_state.slurm_job import Life

LATE_FACTOR = 10.0
LATE_AT_LEAST_S = 60.0
"""A step is late if the last one is `LATE_FACTOR` times as old as a step usually takes, and at least so old."""
_START_S = 120.0
"""Time for the first sign of life of a launch's processes, where neither a lock nor Slurm can be seen."""
_REQUEUE, _STOP = "requeue", "stop"
"""The decisions in `ended.json`."""


class Word(StrEnum):
    """The state of a run."""

    QUEUED = "queued"
    """Its first job waits in Slurm's queue."""
    HELD = "held"
    """Its job waits and does not start by itself, or is suspended."""
    STARTING = "starting"
    """Its processes start, join, build the model and read the checkpoint."""
    TRAINING = "training"
    """It makes steps, or should: the reason says so if the last one is too long ago."""
    EVALUATING = "evaluating"
    """It computes held-out losses."""
    SAVING = "saving"
    """It waits for a save of its own."""
    ENDING = "ending"
    """Training is over, and what follows is being decided."""
    REQUEUED = "requeued"
    """Its job waits in the queue to go on."""
    STOPPED = "stopped"
    """A person or the scheduler ended it, or it ended to be continued; nothing is wrong."""
    FINISHED = "finished"
    """It has made all its steps."""
    FAILED = "failed"
    """It ended, and does not come back by itself: a person must look."""
    GONE = "gone"
    """It ended without a word, and does not come back by itself: a person must look."""
    UNKNOWN = "unknown"
    """No sign of life, and Slurm, which must know, does not answer here."""


RUNNING = frozenset((Word.STARTING, Word.TRAINING, Word.EVALUATING, Word.SAVING, Word.ENDING))
"""States in which processes of the run exist."""
OVER = frozenset((Word.STOPPED, Word.FINISHED, Word.FAILED, Word.GONE))
"""States in which nothing more happens by itself."""
_ACTIVITIES = {
    Activity.START: Word.STARTING,
    Activity.LOAD: Word.STARTING,
    Activity.EVALUATE: Word.EVALUATING,
    Activity.SAVE: Word.SAVING,
}
_EXITS = {
    EXIT_FINISHED: Word.FINISHED,
    EXIT_REQUEUE: Word.STOPPED,
    EXIT_STOPPED_BY_PERSON: Word.STOPPED,
}
_EXIT_REASONS = {
    EXIT_REQUEUE: "to be continued",
    EXIT_STOPPED_BY_PERSON: "by a person",
    EXIT_NEEDS_PERSON: "a person must look",
}
_STAGES = {
    Activity.START: "the ranks join, open the data and build the model",
    Activity.LOAD: "the ranks read the checkpoint",
}


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a run."""

    word: Word
    reason: str | None = None
    """Why it is so, for people."""
    since: float | None = None
    """Time at which it began, in seconds since 1970, where that is known."""
    needs_person: bool = False
    """True if nothing gets better by itself."""
    launch: LaunchRecord | None = None
    """The launch, or the submission, that it is about."""


def state_of(facts: Facts) -> State:
    """Return the state of a run."""
    if facts.started is not None and (facts.are_ranks_alive or facts.newest is facts.started):
        return _of_start(facts, facts.started)
    return _of_submission(facts)


def late_text(facts: Facts) -> str | None:
    """Return how long ago the last step was, if that is long for this run; None if it is not."""
    age, usual = facts.step_age_s, facts.usual_step_s
    if age is None or usual is None or age < max(LATE_AT_LEAST_S, LATE_FACTOR * usual):
        return None
    return f"no step since {age:.0f} s (usual {usual:.1f} s)"


def _of_submission(facts: Facts) -> State:
    """Return the state of a run whose newest job has not started."""
    newest, job = facts.newest, facts.slurm
    again = "another job of this run" if facts.started is not None else "its job"
    if newest.job_id is None:
        return State(word=Word.QUEUED, reason="it is being handed to Slurm", launch=newest)
    if job is None:
        reason = f"as its files say: Slurm does not answer here, and {again} ({newest.job_id}) has not started"
        return State(word=Word.QUEUED, reason=reason, launch=newest)
    if job.life is Life.WAITS:
        return State(word=Word.QUEUED, reason=job.in_words, launch=newest)
    if job.life in (Life.HELD, Life.SUSPENDED):
        return _held(facts, newest)
    if job.life is Life.RUNS:
        return State(word=Word.STARTING, reason=f"the nodes are prepared ({job.word})", launch=newest)
    if job.life is Life.LEAVES:
        return State(word=Word.ENDING, reason=job.in_words, launch=newest)
    if job.life is Life.CANCELLED:
        return State(word=Word.STOPPED, reason="the job was cancelled before it started", launch=newest)
    if job.life is Life.FORGOTTEN:
        return State(word=Word.GONE, reason=f"{job.in_words}, and it never started", needs_person=True, launch=newest)
    reason = f"the job ended before it opened a launch ({job.word}); its log says why"
    return State(word=Word.FAILED, reason=reason, needs_person=True, launch=newest)


def _held(facts: Facts, launch: LaunchRecord) -> State:
    job = facts.slurm
    assert job is not None, "only Slurm knows that a job is held"
    by_person = job.is_held_by_person or job.life is Life.SUSPENDED
    return State(word=Word.HELD, reason=job.in_words, needs_person=not by_person, launch=launch)


def _of_start(facts: Facts, launch: LaunchRecord) -> State:
    """Return the state of a run whose newest launch has started, or whose earlier one is still alive."""
    ended = launch.ended
    if ended is not None and ended.action is not None:
        return _of_decision(facts, launch, ended)
    if ended is not None:
        return State(word=Word.ENDING, reason=_how(ended), launch=launch)
    if facts.are_ranks_alive:
        return _of_the_living(facts, launch)
    if facts.exit is not None and not _is_decided_by_job(launch):
        return _of_exit(facts, launch)
    if launch.job_id is not None:
        return _of_silent_job(facts, launch)
    if not facts.beats and not facts.have_left and facts.now - launch.begun < _START_S:
        return State(word=Word.STARTING, reason="its processes start", since=launch.begun, launch=launch)
    return State(word=Word.GONE, reason=_LEFT_NO_WORD, needs_person=True, launch=launch)


_LEFT_NO_WORD = "it was killed, or its machine was: it left no word"


def _is_decided_by_job(launch: LaunchRecord) -> bool:
    """Return whether the batch script decides what follows: not so for what a person started within a job."""
    return launch.job_id is not None and launch.launch is not None and launch.launch.submission is not None


def _of_the_living(facts: Facts, launch: LaunchRecord) -> State:
    """Return the state of a launch that is alive."""
    who = None if facts.owner is None else str(facts.owner)
    if facts.exit is not None:
        return State(word=Word.ENDING, reason=facts.exit.reason or who, since=facts.exit.time, launch=launch)
    has_stepped = bool(facts.records) and facts.records[-1].time >= launch.begun
    if not facts.beats and not has_stepped:
        reason = "its processes start" + (f": {who}" if who else "")
        return State(word=Word.STARTING, reason=reason, since=launch.begun, launch=launch)
    audible = [beat for beat in facts.beats if not beat.is_quiet(facts.now)]
    common = _common_activity(audible or facts.beats) if facts.beats else Activity.DATA
    word = _ACTIVITIES.get(common, Word.TRAINING)
    if word is Word.STARTING and has_stepped:  # heartbeats are a few seconds old; or it is rolled back in place
        word = Word.TRAINING
    alike = [beat for beat in (audible or facts.beats) if beat.activity is common]
    since = min((beat.since for beat in alike), default=None) if word is not Word.TRAINING else None
    stage = _STAGES.get(common) if word is Word.STARTING else None
    parts = [stage, who, _silence(facts) if facts.beats and not audible else None]
    late = late_text(facts) if word is Word.TRAINING else None
    reason = "; ".join(part for part in (late, *parts) if part)
    return State(word=word, reason=reason or None, since=since, needs_person=late is not None, launch=launch)


def _common_activity(beats: tuple[Beat, ...] | list[Beat]) -> Activity:
    """Return what most ranks do, in doubt the one that comes first in a step."""
    counted = Counter(beat.activity for beat in beats)
    order = list(Activity)
    return max(counted, key=lambda activity: (counted[activity], -order.index(activity)))


def _silence(facts: Facts) -> str:
    newest = max(beat.time for beat in facts.beats)
    return f"no rank has given a sign of life for {facts.now - newest:.0f} s"


def _of_silent_job(facts: Facts, launch: LaunchRecord) -> State:
    """Return the state of a launch of a job that gives no sign of life, and of whose end nothing is written down."""
    job = facts.slurm if facts.newest.job_id == launch.job_id else None
    if job is None:
        reason = f"no sign of life, and Slurm, which knows job {launch.job_id}, does not answer here"
        return State(word=Word.UNKNOWN, reason=reason, launch=launch)
    if job.life is Life.WAITS:
        return State(word=Word.REQUEUED, reason=f"from outside; {job.in_words}", launch=launch)
    if job.life in (Life.HELD, Life.SUSPENDED):
        return _held(facts, launch)
    if job.life is Life.RUNS:
        return _of_silent_start(facts, launch)
    if job.life is Life.LEAVES:
        word = Word.REQUEUED if job.restarts >= facts.num_starts else Word.ENDING
        return State(word=word, reason=job.in_words, launch=launch)
    if job.life is Life.CANCELLED:
        return State(word=Word.STOPPED, reason=f"the job was cancelled; {job.in_words}", launch=launch)
    return State(word=Word.GONE, reason=f"{_LEFT_NO_WORD}. {job.in_words}", needs_person=True, launch=launch)


def _of_silent_start(facts: Facts, launch: LaunchRecord) -> State:
    """Return the state of a launch that gives no sign of life while Slurm says that its job runs."""
    assert facts.slurm is not None, "Slurm has said so"
    if facts.slurm.restarts >= facts.num_starts:
        return State(word=Word.STARTING, reason="the job begins again", launch=launch)
    if facts.have_nodes_ended or facts.exit is not None or facts.have_left:
        reason = facts.exit.reason if facts.exit is not None else "its ranks have left"
        return State(word=Word.ENDING, reason=reason, launch=launch)
    if not facts.beats:
        reason = "processes start, and check the nodes"
        return State(word=Word.STARTING, reason=reason, since=launch.begun, launch=launch)
    late = late_text(facts)
    reason = "; ".join(part for part in (late, _silence(facts)) if part)
    return State(word=Word.TRAINING, reason=reason, needs_person=late is not None, launch=launch)


def _of_exit(facts: Facts, launch: LaunchRecord) -> State:
    """Return the state of a launch outside of Slurm that said how it ended."""
    last = facts.exit
    assert last is not None, "it said so"
    word = _EXITS.get(last.exit_code, Word.FAILED)
    reason = "; ".join(part for part in (_EXIT_REASONS.get(last.exit_code), last.reason) if part)
    return State(word=word, reason=reason or None, since=last.time, needs_person=word is Word.FAILED, launch=launch)


def _of_decision(facts: Facts, launch: LaunchRecord, ended: LaunchEnding) -> State:
    """Return the state of a job whose end was decided upon."""
    job = facts.slurm if facts.newest.job_id == launch.job_id else None
    if ended.action == _STOP and (job is None or job.life not in (Life.WAITS, Life.HELD, Life.RUNS)):
        return _of_stop(launch, ended)
    if job is None or job.life is Life.LEAVES:
        return State(word=Word.REQUEUED, reason=ended.reason, launch=launch)
    if job.life in (Life.HELD, Life.SUSPENDED):
        return _held(facts, launch)
    if job.life is Life.WAITS:
        return State(word=Word.REQUEUED, reason=f"{ended.reason}; {job.in_words}", launch=launch)
    if job.life is Life.RUNS:
        has_begun_anew = job.restarts >= facts.num_starts
        word = Word.STARTING if has_begun_anew else Word.REQUEUED if ended.action == _REQUEUE else Word.ENDING
        reason = "the job begins again" if has_begun_anew else ended.reason
        return State(word=word, reason=reason, launch=launch)
    if job.life is Life.CANCELLED:
        return State(word=Word.STOPPED, reason="the job was cancelled while it was to come back", launch=launch)
    reason = f"it was to come back ({ended.reason}), and does not. {job.in_words}"
    return State(word=Word.GONE, reason=reason, needs_person=True, launch=launch)


def _of_stop(launch: LaunchRecord, ended: LaunchEnding) -> State:
    if ended.exit_code == EXIT_FINISHED:
        return State(word=Word.FINISHED, launch=launch)
    word = Word.FAILED if ended.alert else Word.STOPPED
    return State(word=word, reason=_how(ended), needs_person=bool(ended.alert), launch=launch)


def _how(ended: LaunchEnding) -> str | None:
    cause = None if ended.cause is None else f"first cause: {ended.cause.text}"
    return "; ".join(part for part in (ended.reason, cause) if part) or None
