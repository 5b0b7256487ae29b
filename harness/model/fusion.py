"""Compiles a function of several torch calls into one kernel for GPUs; on a CPU the function runs as it is."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_device(function: Callable[Arguments, Result], device: torch.device) -> Callable[Arguments, Result]:
    """Return the function as it should run on the device.

    Each kernel is made for one shape. After a second shape, torch's compiler would otherwise make kernels for any
    shape, which were more than twice as slow when measured. This is set per function and not in the compiler's
    configuration, because that holds for one thread only, and backward passes run in another.
    """
    return _compiled(function) if device.type == "cuda" else function


@functools.cache
def _compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    return torch.compile(function, dynamic=False)
