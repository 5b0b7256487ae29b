"""Metrics of the experts in a step: how evenly tokens went to them, in each layer and in the whole model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from harness.model.experts.tally import RowSums
from harness.run import metric_names as names

_DIGITS = 4
"""Digits of the numbers of one layer: enough to see what happens, and little to write for each of many layers."""


class LayerLoad(NamedTuple):
    """Use of the experts of one layer."""

    max_load: float
    """Tokens of the expert that had most, over the mean of all: 1 if all had equally many."""
    dead_share: float
    """Share of the experts that had no token."""


def layer_loads(rows: Sequence[RowSums]) -> tuple[LayerLoad, ...]:
    """Return the load of each layer with experts."""
    return tuple(LayerLoad(*(float(f"{value:.{_DIGITS}g}") for value in _load(row))) for row in rows)


def expert_metrics(rows: Sequence[RowSums], *, topk: int, has_aux_loss: bool) -> dict[str, float]:
    """Return the metrics of the whole model by name; none for a dense one, or in a step without a token."""
    num_tokens = math.fsum(count for row in rows for count in row.counts) / topk
    if not num_tokens:
        return {}
    loads = [_load(row) for row in rows]
    values = {
        names.EXPERT_MAX_LOAD: max(load.max_load for load in loads),
        names.EXPERT_DEAD_SHARE: math.fsum(load.dead_share for load in loads) / len(loads),
        names.ROUTER_ENTROPY: math.fsum(row.entropy for row in rows) / num_tokens,
        names.ROUTER_Z_LOSS: math.fsum(row.z_loss for row in rows) / num_tokens,
    }
    if has_aux_loss:
        values[names.ROUTER_AUX_LOSS] = math.fsum(row.aux_loss for row in rows) / num_tokens
    return values


def _load(row: RowSums) -> LayerLoad:
    total = math.fsum(row.counts)
    most = max(row.counts) * len(row.counts) / total if total else 0.0
    return LayerLoad(most, row.counts.count(0.0) / len(row.counts))
