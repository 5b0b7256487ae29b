"""The activation of the MLP: one kernel forward and one backward on a GPU.

Shapes: the last dimension is the MLP's width, twice for gated ones: first the gate, then what it is multiplied with.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from harness.model.fusion import on_device


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the gate times the rest (Shazeer 2020)."""
    gate, rest = x.chunk(2, dim=-1)
    return functional.silu(gate) * rest


def geglu(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the gate times the rest (Shazeer 2020)."""
    gate, rest = x.chunk(2, dim=-1)
    return functional.gelu(gate) * rest


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return the exact GELU."""
    return functional.gelu(x)


_FUNCTIONS = {"swiglu": swiglu, "geglu": geglu, "gelu": gelu}


class Activation(nn.Module):
    """An activation in the place where Megatron builds Transformer Engine's.

    Megatron's own fused SwiGLU is compiled for changing shapes as soon as it sees a second one. A module, because
    Megatron 0.19 takes nothing else there.
    """

    def __init__(self, *, kind: str, config: object = None) -> None:
        super().__init__()
        self._function = _FUNCTIONS[kind]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation. Halves the last dimension if gated."""
        return on_device(self._function, x.device)(x)

    def sharded_state_dict(self, *_arguments: object, **_keywords: object) -> dict[str, object]:
        """Return an empty state: there is nothing to save."""
        return {}
