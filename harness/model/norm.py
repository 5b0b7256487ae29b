"""Normalization layers that support sequence parallelism, which Megatron's torch fallback refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class RMSNorm(nn.RMSNorm):
    """Root-mean-square normalization (Zhang and Sennrich 2019), torch's fused kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=torch.cuda.current_device())
        _mark(self, config)


class LayerNorm(nn.LayerNorm):
    """Layer normalization with scale and bias, torch's fused kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=torch.cuda.current_device())
        _mark(self, config)


def _mark(norm: nn.Module, config: Any) -> None:  # noqa: ANN401
    """Mark gradients for Megatron to sum: each tensor-parallel rank sees only its share of the sequence."""
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
