"""Sums of the losses of modules that predict further tokens: made on the device, reduced together with the losses.

Shapes: M modules.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class ModuleLoss:
    """Loss of one module over the whole global batch."""

    loss_sum: float
    """Summed loss, in nats."""
    num_tokens: float
    """Tokens that counted: fewer than for the next token, as the last ones of a sample have no label."""


class LossTally:
    """The losses of the modules of this rank in a step."""

    def __init__(self, num_mtp_modules: int) -> None:
        self.loss_weight = 0.0
        """Weight of one token's loss in what is differentiated: 1 / tokens that are expected in the step."""
        self._num_mtp_modules = num_mtp_modules
        self._sums_M2: torch.Tensor | None = None

    def begin(self, loss_weight: float) -> None:
        """Begin a step."""
        self.loss_weight = loss_weight
        if self._sums_M2 is not None:
            self._sums_M2.zero_()

    @torch.no_grad()
    def add(self, module: int, loss_BS: torch.Tensor, loss_mask_BS: torch.Tensor) -> None:
        """Add a micro-batch of a module, counted from 0."""
        sums = torch.stack(((loss_BS * loss_mask_BS).double().sum(), loss_mask_BS.double().sum()))
        self.sums(sums.device)[module] += sums

    def sums(self, device: torch.device) -> torch.Tensor:
        """Return loss sum and token count of each module: `[M, 2]`, fp64."""
        if self._sums_M2 is None:
            self._sums_M2 = torch.zeros(self._num_mtp_modules, 2, dtype=torch.float64, device=device)
        return self._sums_M2


class TalliesLosses(nn.Module):
    """A part of a model chunk that counts the losses of modules."""

    tally: LossTally


def losses_in(chunk: nn.Module) -> list[LossTally]:
    """Return the losses of the modules of a model chunk; one at most."""
    return [module.tally for module in chunk.modules() if isinstance(module, TalliesLosses)]


def read_losses(values: list[float]) -> tuple[ModuleLoss, ...]:
    """Return the losses from the sums over all ranks, one behind the other, as the host has read them."""
    pairs = zip(values[::2], values[1::2], strict=True)
    return tuple(ModuleLoss(loss_sum=loss_sum, num_tokens=num_tokens) for loss_sum, num_tokens in pairs)
