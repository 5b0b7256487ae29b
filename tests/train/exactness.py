"""How two machines or two versions are compared bit by bit."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
import xxhash


def processor() -> str:
    """Return what decides, with the version of torch, in which order a CPU adds fp32 numbers."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown'}, {torch.backends.cpu.get_cpu_capability()}"


def tensor_hashes(checkpoint: Path) -> dict[str, str]:
    """Return the XXH3 of every tensor of a checkpoint, weights and moments, read by torch alone."""
    tensors = dcp.FileSystemReader(checkpoint).read_metadata().state_dict_metadata
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in tensors.items()
        if hasattr(entry, "size")
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        dcp.load(state, storage_reader=dcp.FileSystemReader(checkpoint), no_dist=True)
    return {name: xxhash.xxh3_64_hexdigest(tensor.numpy().tobytes()) for name, tensor in sorted(state.items())}
