"""The machine of a measurement: the GPU, its limits and clocks, versions, and its speed on matrix products."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata

import torch

_QUERY = "power.limit,power.draw,clocks.sm,clocks.max.sm,temperature.gpu,driver_version"


def versions() -> str:
    """Return the versions of everything that affects the speed."""
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    if torch.version.cuda:
        parts += [f"CUDA {torch.version.cuda}", f"cuDNN {torch.backends.cudnn.version()}"]
        parts.append("NCCL " + ".".join(map(str, torch.cuda.nccl.version())))
    for name in ("triton", "megatron-core", "transformer-engine"):
        try:
            parts.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            parts.append(f"no {name}")
    return ", ".join(parts)


def gpu_state() -> str:
    """Return power, clocks and temperature of the first GPU at this moment."""
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
    names = ("power limit", "power drawn", "SM clock", "highest SM clock", "temperature", "driver")
    return ", ".join(f"{name} {value.strip()}" for name, value in zip(names, done.stdout.split(","), strict=False))


def matmul_tflops(device: torch.device, size: int = 8192, repetitions: int = 50) -> float:
    """Return the rate of bf16 matrix products of random numbers, in TFLOP/s; NaN on a CPU."""
    if device.type != "cuda":
        return float("nan")
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    for _ in range(10):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repetitions):
        a @ b
    end.record()
    torch.cuda.synchronize(device)
    return 2 * size**3 * repetitions / (start.elapsed_time(end) / 1e3) / 1e12


if __name__ == "__main__":
    sys.stdout.write(f"{versions()}\n{gpu_state()}\n")
