"""Texts of what went wrong on a disk, without what Megatron and torch put in front."""

from __future__ import annotations

import re

DISK_ERRORS = (OSError, RuntimeError)
"""Errors of a full or failing disk. torch's own writer raises RuntimeError."""
_IN_FRONT = re.compile(r"^(Worker failure: )?(\[Errno [0-9]+\] )?")


def cause(error: BaseException) -> str:
    """Return what an error says, or its kind if it says nothing."""
    return _IN_FRONT.sub("", str(error)) or type(error).__name__
