"""The Triton kernels of this package: where they run, and how many programs a launch has.

A kernel is what a GPU runs in one launch where torch would run several. Only the other modules of this package import
Triton, and they are imported when a kernel is first launched. The functions beside the package (`harness.model.norm`,
`activation`, `rotary`, `cross_entropy`) say what a kernel computes, hold its plain counterpart for the CPU, and
allocate its outputs.

Every kernel computes in fp32 whatever it reads, and rounds once when it writes. No kernel is made for one sequence
length: what changes between batches is an ordinary argument, so nothing is compiled after the first step.
"""

from __future__ import annotations

import functools
import importlib.util

import torch

from harness.errors import UsageError

_PROCESSORS_OF_H100 = 132
_PROGRAMS_PER_PROCESSOR = 4
_TILE_NUMBERS = 4096


def takes_kernels(tensor: torch.Tensor) -> bool:
    """Return whether this tensor is for kernels: on a GPU, and on the meta device, which stands for one.

    There the outputs are allocated as on a GPU, and nothing is launched.
    """
    return tensor.device.type != "cpu"


def require_compiler(device: torch.device) -> None:
    """Make sure that kernels can be compiled for this device.

    Raises:
        UsageError: It is a GPU, and Triton is not installed.
    """
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UsageError(
            f"torch {torch.__version__} sees a GPU, but Triton is not installed, which makes our kernels for it; "
            "torch's wheels for CUDA bring it: pip install triton"
        )


def next_power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def row_tiles(num_rows: int, width: int, device: torch.device) -> tuple[int, int, int]:
    """Return how to share rows out: rows of a tile (a power of two), tiles of a program, programs.

    Short rows are taken together, so that a program has enough to load at once. There are a few programs for each
    processor of the GPU, however many rows there are.
    """
    tile = max(1, _TILE_NUMBERS // next_power_of_two(width))
    num_tiles = -(-num_rows // tile)
    per_program = -(-num_tiles // (_PROGRAMS_PER_PROCESSOR * processors(device)))
    return tile, per_program, -(-num_tiles // per_program)


def warps(numbers: int) -> int:
    """Return how many warps share this many numbers: 16 numbers a thread, up to 16 warps."""
    return min(16, max(1, next_power_of_two(numbers) // (32 * 16)))


@functools.cache
def processors(device: torch.device) -> int:
    """Return the number of multiprocessors of the GPU, or of an H100 if the device is no GPU."""
    if device.type != "cuda":
        return _PROCESSORS_OF_H100
    return torch.cuda.get_device_properties(device).multi_processor_count
