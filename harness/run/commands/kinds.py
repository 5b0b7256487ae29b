"""The kinds of commands; `harness.run.commands.requests` describes the request of each."""

from __future__ import annotations

from enum import StrEnum


class CommandKind(StrEnum):
    """A kind of command, by the word that people write."""

    SAVE = "save"
    STOP = "stop"
    SAVE_AND_STOP = "save-and-stop"
    ROLLBACK = "rollback"
    STOP_FOR_PERSON = "stop-for-person"
    EVIDENCE = "evidence"
    MARK = "mark"
    QUARANTINE = "quarantine"


GIVEN_BY_PEOPLE = (
    CommandKind.SAVE,
    CommandKind.STOP,
    CommandKind.SAVE_AND_STOP,
    CommandKind.ROLLBACK,
    CommandKind.EVIDENCE,
)
"""The kinds that `harness signal` gives; the watcher and `harness data quarantine` give the others."""
