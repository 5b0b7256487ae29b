"""The activation of the MLP: one kernel forward and one backward on a GPU.

Shapes: the last dimension is the MLP's width F, twice for gated ones: first the gate, then what it is multiplied with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from harness.model.kernels.launch import takes_kernels
from harness.model.recompute import computed_by

_BLOCK = 1024
# As published for gpt-oss. The kernels have the same numbers.
_CLAMP = 7.0
_STEEPNESS = 1.702


@dataclass(frozen=True)
class Kind:
    """An activation: as torch computes it on a CPU, and its number for the kernel."""

    plain: Callable[[torch.Tensor], torch.Tensor]
    number: int
    gated: bool


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """Return SiLU of the gate times the rest (Shazeer 2020)."""
    gate, rest = x.chunk(2, dim=-1)
    return functional.silu(gate) * rest


def geglu(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the gate times the rest (Shazeer 2020)."""
    gate, rest = x.chunk(2, dim=-1)
    return functional.gelu(gate) * rest


def clamped_swiglu(x: torch.Tensor) -> torch.Tensor:
    """Return the gate times a steep sigmoid of it, times one plus the rest, both within bounds (gpt-oss)."""
    gate, rest = x.chunk(2, dim=-1)
    gate = gate.clamp(max=_CLAMP)
    return gate * torch.sigmoid(_STEEPNESS * gate) * (rest.clamp(-_CLAMP, _CLAMP) + 1)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """Return the exact GELU."""
    return functional.gelu(x)


def geglu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return GELU of the gate, by its tanh approximation, times the rest (Gemma)."""
    gate, rest = x.chunk(2, dim=-1)
    return functional.gelu(gate, approximate="tanh") * rest


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """Return the tanh approximation of GELU (GPT-2)."""
    return functional.gelu(x, approximate="tanh")


def squared_relu(x: torch.Tensor) -> torch.Tensor:
    """Return the square of what is positive, 0 for the rest (So et al. 2021)."""
    return functional.relu(x).square()


# The numbers are those of harness.model.kernels.activation.
KINDS = {
    "swiglu": Kind(swiglu, 0, True),
    "geglu": Kind(geglu, 1, True),
    "geglu_tanh": Kind(geglu_tanh, 2, True),
    "clamped_swiglu": Kind(clamped_swiglu, 4, True),
    "gelu": Kind(gelu, 1, False),
    "gelu_tanh": Kind(gelu_tanh, 2, False),
    "squared_relu": Kind(squared_relu, 3, False),
}


class Activation(nn.Module):
    """An activation in the place where Megatron builds Transformer Engine's.

    Megatron's own fused SwiGLU is compiled for changing shapes as soon as it sees a second one. A module, because
    Megatron 0.19 takes nothing else there.
    """

    def __init__(self, *, kind: str, module: str = "mlp_act", config: object = None) -> None:
        super().__init__()
        self._kind, self._module = KINDS[kind], module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the activation. Halves the last dimension if gated."""
        kept = x.detach()
        return computed_by(self._module, activated(x, self._kind), lambda: activated(kept, self._kind))

    def sharded_state_dict(self, *_arguments: object, **_keywords: object) -> dict[str, object]:
        """Return an empty state: there is nothing to save."""
        return {}


def activated(x: torch.Tensor, kind: Kind) -> torch.Tensor:
    """Return the activation of x; half as wide as x if gated."""
    if not takes_kernels(x):
        return kind.plain(x)
    return ActivationKernel.apply(x, kind)  # type: ignore[no-untyped-call, no-any-return]


class ActivationKernel(torch.autograd.Function):
    """An activation by its kernels; only the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, kind: Kind) -> torch.Tensor:  # noqa: ANN401
        """Launch the forward kernel."""
        x = x.contiguous()
        width = x.size(-1) // (2 if kind.gated else 1)
        y = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
        ctx.save_for_backward(x)
        ctx.kind = kind
        if not x.is_meta:
            from harness.model.kernels import activation as kernels

            kernels.activation_forward[_grid(y)](x, y, F=width, BLOCK=_BLOCK, KIND=kind.number, GATED=kind.gated)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None]:  # noqa: ANN401
        """Launch the backward kernel."""
        (x,) = ctx.saved_tensors
        kind: Kind = ctx.kind
        dx = torch.empty_like(x)
        if not x.is_meta:
            from harness.model.kernels import activation as kernels

            kernels.activation_backward[_grid(dy)](
                dy.contiguous(), x, dx, F=dy.size(-1), BLOCK=_BLOCK, KIND=kind.number, GATED=kind.gated
            )
        return dx, None


def _grid(y: torch.Tensor) -> tuple[int, int]:
    """Return the programs for an output: its rows, and the blocks of a row."""
    return y.numel() // y.size(-1), -(-y.size(-1) // _BLOCK)
