"""The device on which this process computes, and its properties."""

from __future__ import annotations

import time
from pathlib import Path

import torch

_DRIVER = Path("/sys/module/nvidia/version")
_PRODUCT_ON_GPU = (4096, torch.bfloat16)
_PRODUCT_ON_CPU = (256, torch.float32)
"""Side and type of the matrices that are multiplied to see how fast a device is: about 0.2 ms on an H100, 1 ms on a
core."""
_PRODUCTS = 10


def select(local_rank: int) -> torch.device:
    """Return the GPU of this local rank, or the CPU if there is no GPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def name(device: torch.device) -> str:
    """Return the device's name as its maker spells it; `cpu` for a CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def peak_memory_gib(device: torch.device) -> float | None:
    """Return the largest memory allocated on the GPU since the process began, in GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30


def memory_gib(device: torch.device) -> float | None:
    """Return the memory of the GPU in GiB; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.get_device_properties(device).total_memory / 2**30


def cuda_version(device: torch.device) -> str:
    """Return the version of CUDA that torch was built for; `none` on a CPU."""
    return str(torch.version.cuda) if device.type == "cuda" else "none"


def driver_version(device: torch.device) -> str:
    """Return the version of the GPU's driver on this machine; `none` on a CPU, or if the kernel does not expose it."""
    if device.type != "cuda" or not _DRIVER.is_file():
        return "none"
    return _DRIVER.read_text().strip()


def synchronize(device: torch.device) -> None:
    """Wait until the GPU has done what it was given; return at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compute_ms(device: torch.device) -> float:
    """Time of a fixed product of matrices on this device alone, in milliseconds; the best of ten, to pass over noise.

    Ranks with equal devices take equal times, unless one is throttled, shared or broken. Draws no random numbers.
    """
    side, dtype = _PRODUCT_ON_GPU if device.type == "cuda" else _PRODUCT_ON_CPU
    matrix = torch.full((side, side), 0.5, dtype=dtype, device=device)
    times = []
    for _ in range(1 + _PRODUCTS):
        synchronize(device)
        started = time.perf_counter()
        torch.mm(matrix, matrix)
        synchronize(device)
        times.append(1e3 * (time.perf_counter() - started))
    return min(times[1:])
