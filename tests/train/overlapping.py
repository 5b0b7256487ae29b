"""A launch whose ranks reduce gradients and gather parameters beside the computation, as on GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import worlds

if TYPE_CHECKING:
    from harness.config.schema import Config


def train(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, resume: str) -> int:
    """A whole launch with overlap, which the CPU does without; the exit code."""
    from harness.model import mcore

    usual = mcore._overlaps
    mcore._overlaps = lambda ranks, device: True
    try:
        return worlds.train(rank, world_size, init_method, config, run_dir, resume)
    finally:
        mcore._overlaps = usual
