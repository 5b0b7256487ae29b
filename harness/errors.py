"""The errors that a user may see, and the exit code of each branch.

Every error says what happened, what was given, what is allowed, and what to do. The command line prints the
text without a traceback and leaves with `exit_code`; anything that is not a `HarnessError` is a bug (exit 70).
"""

from __future__ import annotations

EXIT_FINISHED = 0
EXIT_USAGE = 64
EXIT_BAD_DATA = 65
EXIT_INTERNAL = 70
EXIT_REQUEUE = 75
EXIT_NEEDS_PERSON = 76
EXIT_STOPPED_BY_PERSON = 77


class HarnessError(Exception):
    """Root of all errors that are shown to a user as one message without a traceback."""

    exit_code = EXIT_INTERNAL


class UsageError(HarnessError):
    """A command was called wrongly, or what it needs is missing; nothing was started."""

    exit_code = EXIT_USAGE


class ConfigError(UsageError):
    """The configuration is wrong. Carries every problem found, not only the first."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{count} in the configuration:\n" + "\n".join(f"  {p}" for p in problems))


class RunInUseError(UsageError):
    """Another process trains in this run directory."""


class RunTakenOverError(RunInUseError):
    """Another process has taken over the run directory in which this one was training."""


class BadDataError(HarnessError):
    """Data or a checkpoint on disk is missing, truncated, altered, or not what the run needs."""

    exit_code = EXIT_BAD_DATA


class DataError(BadDataError):
    """A channel, a part or a tokenizer is unreadable or does not fit the configuration."""


class CheckpointError(BadDataError):
    """A checkpoint does not verify, or belongs to a different model, data or tokenizer."""


class LayoutError(HarnessError):
    """The phase in which a run goes on needs another number of ranks than were started."""

    exit_code = EXIT_REQUEUE


class SaveFailedError(HarnessError):
    """A checkpoint could not be written (full disk, I/O error). Nothing older was touched."""
