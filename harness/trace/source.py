"""Finds the line of code that asks for something: of harness or of megatron-core, not of torch. Imports no torch."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from harness.trace.findings import Place

_HARNESS = Path(__file__).parents[1]
_MEGATRON = "/megatron/core/"
_TRACER = ("harness/trace/", "harness/parallel/cpu.py")
"""Code that is on the stack only because of the trace."""
_UNKNOWN = Place(file="?", line=0, function="?")


@dataclass(frozen=True, kw_only=True)
class Source:
    """The innermost line of ours on the stack, and the pass in which it runs."""

    place: Place
    in_forward: bool | None
    """True if a forward pass asks, also one that is repeated in backward; None if no function on the stack says so."""


def source() -> Source:
    """Return the source of what is being done, from the stack of the caller."""
    frame: FrameType | None = sys._getframe(1)
    place, in_forward = None, None
    while frame is not None and (place is None or in_forward is None):
        if (file := _own_file(frame.f_code.co_filename)) is not None:
            place = place or Place(file=file, line=frame.f_lineno, function=frame.f_code.co_qualname)
        if in_forward is None:
            in_forward = _pass_of(frame.f_code.co_name)
        frame = frame.f_back
    return Source(place=place or _UNKNOWN, in_forward=in_forward)


def _pass_of(function: str) -> bool | None:
    """Return whether a function by its name is of a forward (True) or of a backward pass (False).

    autograd calls `backward` of its functions, modules are called by `forward`; Megatron's schedules receive gradients
    in functions whose name ends in `recv_backward`.
    """
    if function == "forward":
        return True
    if function == "backward" or function.endswith("recv_backward"):
        return False
    return None


@functools.cache
def _own_file(path: str) -> str | None:
    """Return the path of the file from the package on; None for files of others."""
    if path.startswith(f"{_HARNESS}/"):
        file = path.removeprefix(f"{_HARNESS.parent}/")
        return None if file.startswith(_TRACER) else file
    _, found, rest = path.rpartition(_MEGATRON)
    return f"{found.lstrip('/')}{rest}" if found else None
