"""Normalization layers that support sequence parallelism, which Megatron's torch fallback refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich 2019), torch's fused kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=_device()))
        # Each tensor-parallel rank sees only its share of the sequence: Megatron sums gradients so marked.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension."""
        return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer normalization with scale and bias, torch's fused kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=_device()))
        self.bias = nn.Parameter(torch.zeros(hidden_size, dtype=config.params_dtype, device=_device()))
        for parameter in (self.weight, self.bias):
            parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the last dimension."""
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


def _device() -> torch.device | int:
    return torch.cuda.current_device()
