"""Records for the tests of metrics."""

from __future__ import annotations

from harness.run import metric_names as names
from harness.run.records import StepRecord


def record(step: int, **values: float) -> StepRecord:
    return StepRecord(
        attempt=0,
        step=step,
        time=5.0,
        phase="main",
        consumed_samples=step,
        consumed_tokens=step,
        batch_hash=step,
        values={names.LM_LOSS: 3.0, **values},
    )
