"""Normalization layers that support sequence parallelism, which Megatron's torch fallback refuses.

Shapes: H hidden size; `...` any dimensions in front of it, rows together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from harness.model.kernels.launch import next_power_of_two, row_tiles, takes_kernels, warps
from harness.model.recompute import computed_by
from harness.parallel import collectives
from harness.parallel.collectives import Group

Normed = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class Scaled:
    """A norm whose weights are what it multiplies with, or one less (`layernorm_zero_centered_gamma`)."""

    weight: nn.Parameter
    _is_zero_centered = False

    def scale(self) -> torch.Tensor:
        """Return what is multiplied with: `[H]`. A sum is fp32: near one a weight in bf16 has two digits."""
        return self.weight.float() + 1.0 if self._is_zero_centered else self.weight


class RMSNorm(Scaled, nn.RMSNorm):
    """Root-mean-square normalization (Zhang and Sennrich 2019): one kernel each way on a GPU, torch's on a CPU."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=torch.cuda.current_device())
        self._epsilon = eps
        self._is_zero_centered = config.layernorm_zero_centered_gamma
        _mark(self, config)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:  # type: ignore[override]
        """Return the normalized tensor, `[..., H]`. With a residual, add it first, and return the sum in front of it.

        The addition and the norm are then one kernel each way on a GPU.
        """
        if residual is not None:
            total, normed = rms_norm_behind_sum(x, residual, self.scale(), self._epsilon)
            return total, self._again(normed, total)
        ready = handed_over(x, self)
        return self._again(rms_norm(x, self.scale(), self._epsilon) if ready is None else ready, x)

    def _again(self, normed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        kept = x.detach()
        return computed_by("layernorm", normed, lambda: rms_norm(kept, self.scale(), self._epsilon))


class LayerNorm(Scaled, nn.LayerNorm):
    """Layer normalization with scale and bias, torch's fused kernel."""

    def __init__(self, config: Any, hidden_size: int, eps: float = 1e-5, **_: object) -> None:  # noqa: ANN401
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype, device=torch.cuda.current_device())
        self._is_zero_centered = config.layernorm_zero_centered_gamma
        _mark(self, config)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Normed:  # type: ignore[override]
        """Return the normalized tensor, `[..., H]`; with a residual, add it first, and return the sum in front."""
        if residual is not None:
            total = x + residual
            return total, self._again(self._normed(total), total)
        ready = handed_over(x, self)
        return self._again(self._normed(x) if ready is None else ready, x)

    def _normed(self, x: torch.Tensor) -> torch.Tensor:
        if not self._is_zero_centered:
            return super().forward(x)
        normed = functional.layer_norm(x.float(), self.normalized_shape, self.scale(), self.bias.float(), self.eps)
        return normed.to(x.dtype)

    def _again(self, normed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        kept = x.detach()
        return computed_by("layernorm", normed, lambda: self._normed(kept))


def hand_over(total: torch.Tensor, norm: nn.Module, normed: torch.Tensor) -> torch.Tensor:
    """Return the sum, and let this norm find on it that it was normalized already."""
    total.normed = (norm, normed)  # type: ignore[attr-defined]
    return total


def handed_over(total: torch.Tensor, norm: nn.Module) -> torch.Tensor | None:
    """Return what `hand_over` left for this norm, once; None if nothing was left."""
    maker, normed = vars(total).pop("normed", (None, None))
    return normed if maker is norm else None


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return x over the root of its mean square, times the weight: `[..., H]`."""
    if not takes_kernels(x):
        if weight.dtype is not x.dtype:
            return functional.rms_norm(x.float(), weight.shape, weight, epsilon).to(x.dtype)
        return functional.rms_norm(x, weight.shape, weight, epsilon)
    return RMSNormKernel.apply(x, weight, epsilon)  # type: ignore[no-untyped-call, no-any-return]


def rms_norm_behind_sum(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of both and its normalization: `[..., H]` each."""
    if not takes_kernels(x):
        total = x + residual
        return total, rms_norm(total, weight, epsilon)
    return RMSNormBehindSumKernel.apply(x, residual, weight, epsilon)  # type: ignore[no-untyped-call, no-any-return]


class SharedRMSNorm(torch.autograd.Function):
    """`rms_norm` of rows of which each rank of a group has a share of the width; one fp32 number a row is kept.

    Both passes add up one number a row over the group.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: torch.Tensor, epsilon: float, group: Group) -> torch.Tensor:  # noqa: ANN401
        """Normalize by the mean square over all shares, which are equally wide."""
        wide = x.float()
        width = x.size(-1) * group.size()
        squares = collectives.sum_over(wide.square().sum(dim=-1, keepdim=True), group)
        inverse_rms = torch.rsqrt(squares / width + epsilon)
        ctx.save_for_backward(x, scale, inverse_rms)
        ctx.width, ctx.group = width, group
        return (wide * inverse_rms * scale).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:  # noqa: ANN401
        """Return the gradients of this rank's share, and of its scale."""
        x, scale, inverse_rms = ctx.saved_tensors
        unit = x.float() * inverse_rms
        dunit = dy.float() * scale
        along = collectives.sum_over((unit * dunit).sum(dim=-1, keepdim=True), ctx.group) / ctx.width
        dx = (dunit - unit * along) * inverse_rms
        dscale = (dy.float() * unit).flatten(0, -2).sum(dim=0)
        return dx.to(x.dtype), dscale.to(scale.dtype), None, None


class RMSNormKernel(torch.autograd.Function):
    """`rms_norm` by its kernels; one fp32 number a row is kept beside the input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:  # noqa: ANN401
        """Launch the forward kernel."""
        y, _, inverse_rms_R = _forward(x, None, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse_rms_R)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:  # noqa: ANN401
        """Launch the backward kernel."""
        dx, dweight = _backward(dy, None, *ctx.saved_tensors)
        return dx, dweight, None


class RMSNormBehindSumKernel(torch.autograd.Function):
    """`rms_norm_behind_sum` by the same kernels: backward adds what comes to the sum from elsewhere."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        epsilon: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Launch the forward kernel."""
        y, total, inverse_rms_R = _forward(x, residual.contiguous(), weight, epsilon)
        assert total is not None, "there is a residual"
        ctx.save_for_backward(total, weight, inverse_rms_R)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,  # noqa: ANN401
        dtotal: torch.Tensor,
        dy: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        """Launch the backward kernel."""
        dx, dweight = _backward(dy, dtotal, *ctx.saved_tensors)
        return dx, dx, dweight, None


def _rows(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return x as rows, `[R, H]`: a view where they lie at equal distances, such as the keys in the QKV projection."""
    x_RH = x.reshape(-1, weight.size(0))
    return x_RH if x_RH.stride(1) == 1 else x_RH.contiguous()


def _forward(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return the normalized tensor, the sum (None without a residual), and the inverse of every row's root."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    total = None if residual is None else torch.empty_like(y)
    x_RH = _rows(x, weight)
    inverse_rms_R = torch.empty(x_RH.size(0), dtype=torch.float32, device=x.device)
    if x.is_meta:
        return y, total, inverse_rms_R
    from harness.model.kernels import norm as kernels

    width = next_power_of_two(x_RH.size(1))
    tile, tiles, programs = row_tiles(x_RH.size(0), x_RH.size(1), x_RH.device)
    kernels.rms_norm_forward[(programs,)](
        x_RH,
        residual,
        weight,
        total,
        y,
        inverse_rms_R,
        x_RH.size(0),
        x_RH.stride(0),
        tiles,
        epsilon,
        H=x_RH.size(1),
        WIDTH=width,
        TILE=tile,
        HAS_RESIDUAL=residual is not None,
        num_warps=warps(tile * width),
    )
    return y, total, inverse_rms_R


def _backward(
    dy: torch.Tensor,
    dtotal: torch.Tensor | None,
    x: torch.Tensor,
    weight: torch.Tensor,
    inverse_rms_R: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of what was normalized, and of the weight."""
    x_RH = _rows(x, weight)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    tile, tiles, programs = row_tiles(x_RH.size(0), x_RH.size(1), x_RH.device)
    dweight_PH = torch.empty(programs, x_RH.size(1), dtype=torch.float32, device=x_RH.device)
    if not x_RH.is_meta:
        from harness.model.kernels import norm as kernels

        width = next_power_of_two(x_RH.size(1))
        kernels.rms_norm_backward[(programs,)](
            dy.contiguous(),
            None if dtotal is None else dtotal.contiguous(),
            x_RH,
            weight,
            inverse_rms_R,
            dx,
            dweight_PH,
            x_RH.size(0),
            x_RH.stride(0),
            tiles,
            H=x_RH.size(1),
            WIDTH=width,
            TILE=tile,
            HAS_RESIDUAL=dtotal is not None,
            num_warps=warps(tile * width),
        )
    return dx, dweight_PH.sum(dim=0).to(weight.dtype)


def _mark(norm: nn.Module, config: Any) -> None:  # noqa: ANN401
    """Mark gradients for Megatron to sum: each tensor-parallel rank sees only its share of the sequence."""
    for parameter in norm.parameters():
        parameter.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
