"""Counts of what the routers of this rank do in a step: made on the device, reduced together with the losses.

A row is one layer with experts. Shapes: R rows in the whole model, E experts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from harness.model.experts.routing import moved

_NUM_SUMS = 3
"""Sums beside the counts of a row: auxiliary loss, z-loss, entropy."""


@dataclass(frozen=True, kw_only=True)
class RowSums:
    """Sums of one layer with experts over the whole global batch."""

    counts: tuple[float, ...]
    """Tokens of each expert; a token counts for each of its experts."""
    aux_loss: float
    """Auxiliary loss times tokens, without its coefficient."""
    z_loss: float
    """log²Z of the router, added up over tokens."""
    entropy: float
    """Entropy of the shares, added up over tokens, in nats."""


class Tally:
    """One router's row, as far as this rank's tokens go."""

    def __init__(self, *, num_experts: int, bias_rate: float, row: int | None = None) -> None:
        self.row = row
        self.bias_rate = bias_rate
        self.loss_weight = 0.0
        """Weight of one token's router losses: 1 / tokens that are expected in the step."""
        self.bias_E: torch.Tensor | None = None
        """The router's bias, where it has one."""
        self._num_experts = num_experts
        self._sums: torch.Tensor | None = None

    def begin(self, loss_weight: float) -> None:
        """Begin a step."""
        self.loss_weight = loss_weight
        if self._sums is not None:
            self._sums.zero_()

    @torch.no_grad()
    def add(self, counts_E: torch.Tensor, *sums: torch.Tensor) -> None:
        """Add a micro-batch: tokens of each expert, and the three sums of `RowSums`."""
        assert len(sums) == _NUM_SUMS, "auxiliary loss, z-loss, entropy"
        found = torch.cat((counts_E.double(), *(one.detach().double().reshape(1) for one in sums)))
        self._sums = found if self._sums is None else self._sums.add_(found)

    def sums(self, device: torch.device) -> torch.Tensor:
        """Return this rank's sums: `[E + 3]`, fp64."""
        if self._sums is None:
            self._sums = torch.zeros(self._num_experts + _NUM_SUMS, dtype=torch.float64, device=device)
        return self._sums


class Tallies:
    """The rows of the whole model, of which this rank fills those of its layers."""

    def __init__(self, tallies: Iterable[Tally], *, num_rows: int, num_experts: int) -> None:
        self._own = list(tallies)
        self._num_rows, self._width = num_rows, num_experts + _NUM_SUMS

    @property
    def size(self) -> int:
        """Numbers that `values` returns."""
        return self._num_rows * self._width

    def begin(self, loss_weight: float) -> None:
        """Begin a step."""
        for tally in self._own:
            tally.begin(loss_weight)

    def values(self, device: torch.device) -> torch.Tensor:
        """Return this rank's part of the sums over all ranks: `[R · (E + 3)]`, fp64."""
        rows = torch.zeros(self._num_rows, self._width, dtype=torch.float64, device=device)
        for tally in self._own:
            rows[_row(tally)] += tally.sums(device)
        return rows.flatten()

    @torch.no_grad()
    def move_biases(self, values: torch.Tensor) -> None:
        """Move the biases of this rank's routers, given the sums over all ranks. Only for a step that is applied."""
        rows = values.view(self._num_rows, self._width)
        for tally in self._own:
            if tally.bias_E is not None and tally.bias_rate:
                tally.bias_E.copy_(moved(tally.bias_E, rows[_row(tally), :-_NUM_SUMS], tally.bias_rate))

    def read(self, values: Sequence[float]) -> tuple[RowSums, ...]:
        """Return the rows from the sums over all ranks, as the host has read them."""
        rows = [values[start : start + self._width] for start in range(0, len(values), self._width)]
        return tuple(
            RowSums(counts=tuple(row[:-_NUM_SUMS]), aux_loss=row[-3], z_loss=row[-2], entropy=row[-1]) for row in rows
        )


def _row(tally: Tally) -> int:
    assert tally.row is not None, "the layer has told its router which row it is"
    return tally.row
