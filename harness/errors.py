"""The errors that a user may see, and the exit code of each branch.

Every error says what happened, what was given, what is allowed, and what to do. The command line prints the
text without a traceback and leaves with `exit_code`; anything that is not a `HarnessError` is a bug (exit 70).
"""

from __future__ import annotations

EXIT_FINISHED = 0
"""The command did what it was asked. `harness train`: all steps are done and saved, or `run.stop_at_step` is
reached."""
EXIT_USAGE = 64
"""The command was called wrongly, the configuration is wrong, or something that it needs is missing. Nothing was
started. A trainer whose run another process has taken over leaves with it too, and so does `harness doctor` on a
machine that has something wrong."""
EXIT_BAD_DATA = 65
"""Data or a checkpoint is missing, damaged, or does not fit the run. `harness checkpoint verify`, `harness data verify`
and `harness convert check` leave with it when they find something wrong."""
EXIT_INTERNAL = 70
"""A bug, a rank that failed, or a last save that could not be written."""
EXIT_REQUEUE = 75
"""The run stopped before its end and can go on: start it again. The time limit, preemption, `save-and-stop` and a phase
in another layout end a launch like this."""
EXIT_NEEDS_PERSON = 76
"""The run stopped, and a person must look before it goes on: the loss is not finite, the budget for rollbacks is used
up, or three saves in a row failed."""
EXIT_STOPPED_BY_PERSON = 77
"""The command `stop` ended the run."""


class HarnessError(Exception):
    """Root of all errors that a user sees as one message without a traceback."""

    exit_code = EXIT_INTERNAL


class UsageError(HarnessError):
    """A command was called wrongly, or what it needs is missing. Nothing was started."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """The configuration is wrong. The error lists every problem found, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  {p}" for p in problems))


class RunInUseError(UsageError):
    """Another process trains in this run directory."""


class RunTakenOverError(RunInUseError):
    """Another process has taken over the run directory in which this one trained."""


class BadDataError(HarnessError):
    """Data or a checkpoint on disk is missing, truncated, altered, or not what the run needs."""

    exit_code = EXIT_BAD_DATA


class DataError(BadDataError):
    """A channel, a part or a tokenizer is unreadable or does not fit the configuration."""


class CheckpointError(BadDataError):
    """A checkpoint does not verify, or belongs to another model, other data or another tokenizer."""


class LayoutError(HarnessError):
    """The phase in which the run goes on needs another number of ranks. Start the run again with that number."""

    exit_code = EXIT_REQUEUE


class StoppedAtStartError(HarnessError):
    """The run was told to stop while its ranks still waited for each other. Nothing was trained: start it again."""

    exit_code = EXIT_REQUEUE


class RunEndingError(RunInUseError):
    """Processes of an earlier launch of the same run, whose launcher has died, still hold it. Start it again later."""

    exit_code = EXIT_REQUEUE


class SaveFailedError(HarnessError):
    """A checkpoint could not be written (full disk, I/O error). Older checkpoints were not touched."""
