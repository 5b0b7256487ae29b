"""The settings that may hold secrets: they are in no message, and in no file that others can read.

The arguments of `watch.alert_command` often hold a token, since that is how programs that send messages get theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.config.problems import Location
from harness.config.schema import Config

_SECRET: Location = ("watch", "alert_command")
HIDDEN = "…"
"""Stands for a secret where people, or files, name what was given."""


def holds_secrets(config: Config) -> bool:
    """Return whether a configuration may hold secrets, so that its copies are for their owner alone."""
    return bool(config.watch.alert_command)


def is_secret(location: Location) -> bool:
    """Return whether the value at a location, or one in it, may be a secret."""
    return location[: len(_SECRET)] == _SECRET


def masked_override(override: str) -> str:
    """Return `key=value` with a value that may hold secrets hidden."""
    key, equals, value = override.partition("=")
    path = tuple(key.strip().split("."))
    if is_secret(path) or (path == _SECRET[: len(path)] and str(_SECRET[-1]) in value):
        return f"{key}{equals}{HIDDEN}"
    return override


def masked_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the arguments of a command line with what may be secret hidden: overrides, and addresses of alerts."""
    masked: list[str] = []
    for argument in arguments:
        before = masked[-1] if masked else ""
        if before == "--alert-url":
            masked.append(HIDDEN)
        elif argument.startswith("--alert-url="):
            masked.append(f"--alert-url={HIDDEN}")
        elif argument.startswith("--set="):
            masked.append("--set=" + masked_override(argument.removeprefix("--set=")))
        else:
            masked.append(masked_override(argument) if before == "--set" else argument)
    return tuple(masked)
