"""One kernel out of a function of several torch calls, where there is a GPU; the function itself on a CPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_device(function: Callable[Arguments, Result], device: torch.device) -> Callable[Arguments, Result]:
    """The function as it should run on the device.

    Kernels are made for one shape each: after a second shape, torch's compiler would otherwise make kernels for any
    shape, and these were measured to be more than twice as slow. Said per function and not in the compiler's
    configuration, because that holds for one thread only, and backward passes run in another.
    """
    return _compiled(function) if device.type == "cuda" else function


@functools.cache
def _compiled(function: Callable[..., Result]) -> Callable[..., Result]:
    return torch.compile(function, dynamic=False)
