"""The machine of a measurement: the GPU, its limits and clocks, versions, and its speed on matrix products."""

from __future__ import annotations

import platform
import subprocess
import sys
from importlib import metadata

import torch

_QUERY = {
    "power limit": "power.limit",
    "power drawn": "power.draw",
    "SM clock": "clocks.sm",
    "highest SM clock": "clocks.max.sm",
    "temperature": "temperature.gpu",
    "driver": "driver_version",
}
"""nvidia-smi's names of what a measurement reports."""


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


def read_gpu() -> dict[str, str]:
    """Return power, clocks and temperature of the first GPU at this moment, by name, with their units.

    Raises:
        RuntimeError: nvidia-smi is missing, fails, or does not answer within 20 s.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_QUERY.values())}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeError(str(error)) from error
    return {name: value.strip() for name, value in zip(_QUERY, done.stdout.split(","), strict=False)}


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
    try:
        state = ", ".join(f"{name} {value}" for name, value in read_gpu().items())
    except RuntimeError as error:
        state = f"nvidia-smi: {error}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    sys.stdout.write(f"{versions()}\n{gpu}\n{state}\n")
