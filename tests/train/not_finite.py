"""Job for the pool: a whole launch in which the loss of every step that has certain samples is NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import worlds

if TYPE_CHECKING:
    from harness.config.schema import Config


def train(
    rank: int, world_size: int, init_method: str, config: Config, run_dir: Path, positions: tuple[int, int]
) -> int:
    """The exit code. `positions` are the first sample that does it, and the first after it that does not."""
    from harness.data.stream import TrainingStream
    from harness.train.steps import step

    plain_step, plain_mean = TrainingStream.step, step.mean_loss
    taken: list[Any] = []

    def take(stream: TrainingStream, cursor: Any) -> Any:
        taken[:] = [plain_step(stream, cursor)]
        return taken[0]

    def mean(totals: Any) -> float:
        is_bad = any(positions[0] <= position < positions[1] for position in taken[0].positions)
        return math.nan if is_bad else plain_mean(totals)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStream, "step", take)
        patch.setattr(step, "mean_loss", mean)
        return worlds.train(rank, world_size, init_method, config, run_dir, "never")
