"""What must be right of what a command accepted, compared with plain readers that share no code with the product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edits import Edit
from forked import Outcome


@dataclass(frozen=True)
class Attempt:
    """A command that has ended, in its place as it left it."""

    root: Path
    corpus: Path
    edits: Sequence[Edit]
    file: str
    """The damaged file, that of the first edit."""
    asked: str
    outcome: Outcome
    again: Callable[[Sequence[str]], Outcome]
    """Runs another command there."""


def settings_are_kept(attempt: Attempt) -> Iterator[str]:
    return iter(())


def documents_are_those_of_the_files(attempt: Attempt) -> Iterator[str]:
    return iter(())


def tokens_are_those_of_the_library(attempt: Attempt) -> Iterator[str]:
    return iter(())


def documents_are_those_of_the_text(attempt: Attempt) -> Iterator[str]:
    return iter(())


def tensors_are_those_of_the_files(attempt: Attempt) -> Iterator[str]:
    return iter(())
