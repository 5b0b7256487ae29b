"""Counts the work of a function: the instructions of Python that it takes, which are the same on every machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def instructions_of(function: Callable[[], object]) -> int:
    """Instructions of Python's interpreter, of the function and all that it calls; loops in C are one."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    try:
        sys.settrace(trace)
        _nothing()
        sys.settrace(trace)  # Python 3.12 counts instructions from the second time on
        count = 0
        function()
    finally:
        sys.settrace(before)
    return count


def _nothing() -> None:
    return


def growth(function_of: Callable[[int], Callable[[], object]], few: int) -> float:
    """How much more work there is with four times as many."""
    return instructions_of(function_of(4 * few)) / instructions_of(function_of(few))
