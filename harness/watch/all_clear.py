"""Things that people were told and that are over, as the records of a run show it (pure)."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

from harness.run.metric_names import LM_LOSS
from harness.run.records import StepRecord
from harness.watch.announcer import not_finite_key, spike_key
from harness.watch.verdict import TOTAL, OpenEpisode


def spikes_over(
    open_keys: Collection[str], episodes: Sequence[OpenEpisode], last: StepRecord
) -> Iterator[tuple[str, str]]:
    """Yield key and text for the spikes that are over after the last record."""
    lasting = {spike_key(each.channel, each.start) for each in episodes}
    finite = {not_finite_key(channel) for channel, loss in _losses(last).items() if math.isfinite(loss)}
    off = {not_finite_key(channel) for channel in _losses(last)} - finite
    for key in open_keys:
        if key in finite:
            yield key, f"the loss is finite again at step {last.step}"
        elif key not in lasting and key not in off and not key.startswith(not_finite_key("")):
            yield key, f"the loss is back where it was expected, at step {last.step}"


def _losses(record: StepRecord) -> dict[str, float]:
    """Return the loss of the total and of each channel."""
    prefix = f"{LM_LOSS}/"
    named = {name.removeprefix(prefix): value for name, value in record.values.items() if name.startswith(prefix)}
    return named | ({TOTAL: record.values[LM_LOSS]} if LM_LOSS in record.values else {})
