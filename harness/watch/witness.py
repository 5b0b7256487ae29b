"""The gradient norm as a witness: while it jumps, the losses are watched more closely.

Its logarithm is compared with a clipped running mean, in clipped running mean absolute residuals. That is all: on quiet
runs the norm jumps a hundred times as often as the loss, so it never alarms by itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_GAIN = 0.06
_CLIP = 1.8
"""Residuals beyond this many mean absolute residuals (1.25 standard deviations) count as this many."""
_JUMP = 13.0
"""A jump in mean absolute residuals, which is 9 standard deviations …"""
_LEAST_RISE = 0.3
"""… and at least a third up."""
_STARTS = 32
"""Number of values before which nothing is a jump."""
_LASTING = 4
"""Number of records for which a jump is witnessed."""


@dataclass(slots=True)
class Witness:
    """The usual logarithm of the gradient norm, and the number of records since it jumped."""

    level: float = 0.0
    spread: float = 0.0
    """Clipped mean absolute residual."""
    num_values: int = 0
    num_left: int = 0
    """Number of records for which the last jump is still witnessed."""

    def observe(self, norm: float) -> bool:
        """Take the norm of a step; return whether it, or one of those before it, has jumped up."""
        if self.num_left:
            self.num_left -= 1
        if not 0.0 < norm < math.inf:
            return self.num_left > 0 or not norm <= 0.0
        residual = math.log(norm) - self.level
        num_values = self.num_values
        if num_values < _STARTS:  # a mean of all values so far, not clipped
            self.num_values = num_values + 1
            self.level += residual / (num_values + 1)
            self.spread += (abs(residual) - self.spread) / (num_values + 1) if num_values else 0.0
            return False
        limit = _CLIP * self.spread + 1e-3
        if residual > _JUMP * self.spread and residual > _LEAST_RISE:
            self.num_left = _LASTING
        if residual > limit:
            residual = limit
        elif residual < -limit:
            residual = -limit
        self.level += _GAIN * residual
        self.spread += _GAIN / 4 * ((residual if residual > 0.0 else -residual) - self.spread)
        return self.num_left > 0

    def relearn(self) -> None:
        """Learn the level anew: something was changed on purpose."""
        self.num_values = self.num_left = 0

    def rewind(self) -> None:
        """Forget a jump: the run went back to an earlier step."""
        self.num_left = 0
