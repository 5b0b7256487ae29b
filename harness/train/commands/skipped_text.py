"""Says what a run skips, in steps: people think in steps, and windows are of samples."""

from __future__ import annotations

from collections.abc import Sequence

from harness.plan.plan import Plan
from harness.run.commands.requests import Rollback


def skipped_text(windows: Sequence[tuple[int, int]], request: Rollback, plan: Plan) -> str:
    """Return what a rollback skips and what the run skips in all, in words (pure).

    The windows are those of earlier rollbacks and of the configuration, too, by rising position.
    """
    if not windows:
        return "no samples are skipped"
    before, places = 0, []
    for start, stop in windows:
        step = plan.step_of_sample(start - before)
        places.append(f"{_samples(stop - start)} at step {step:,} ({start:,} to {stop - 1:,} of the order)")
        before += stop - start
    in_all = f"in all, the run skips {' and '.join(places)}"
    if request.skip_steps is not None:
        first, last = request.skip_steps
        steps = f"steps {first:,} to {last:,}" if last > first else f"step {first:,}"
        return f"skipping the samples of {steps}; {in_all}"
    if request.skip_samples is not None:
        start, stop = request.skip_samples
        return f"skipping {_samples(stop - start)}; {in_all}"
    return f"nothing further is skipped; {in_all}"


def _samples(count: int) -> str:
    return f"{count:,} sample{'s' if count != 1 else ''}"
