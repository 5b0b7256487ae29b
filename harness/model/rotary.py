"""Rotary position embedding: frequencies, their stretching for long contexts, and the rotation.

Shapes: S sequence, B micro batch, N heads, G of them with keys and values of their own, D head size, R rotated numbers
of a head. Halves are rotated against each other (as in Llama and Hugging Face), not neighbouring pairs. Where only a
part of a head is rotated, it is the beginning of each half: its pairs stand as in a head that is rotated whole, for the
same kernels. Converters order the numbers of heads (`checkpoint_tools.layout`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from harness.config.model import ModelConfig
from harness.config.rope_scaling import RopeScalingConfig
from harness.model import context
from harness.model.kernels.launch import next_power_of_two, takes_kernels, warps
from harness.parallel.ranks import Place

_NUMBERS_AT_ONCE = 2048


def frequencies(rotary_size: int, base: float, scaling: RopeScalingConfig | None) -> torch.Tensor:
    """Return the angle per position of each rotated pair: `[R/2]`, fp32 on the CPU.

    Sources: RoFormer (base), position interpolation (`linear`), NTK-aware scaling (`ntk`), Llama 3.1 (`llama3`),
    YaRN (`yarn`).
    """
    if scaling is not None and scaling.type == "ntk":
        base = base * scaling.factor ** (rotary_size / (rotary_size - 2))
    exponents = torch.arange(0, rotary_size, 2, device="cpu", dtype=torch.int64).float() / rotary_size
    plain = 1.0 / (base**exponents)
    if scaling is None or scaling.type == "ntk":
        return plain
    if scaling.type == "linear":
        return plain / scaling.factor
    kept = _kept_by_llama3(plain, scaling) if scaling.type == "llama3" else _kept_by_yarn(len(plain), base, scaling)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _kept_by_llama3(plain: torch.Tensor, scaling: RopeScalingConfig) -> torch.Tensor:
    """Return the share of each frequency that is not stretched: none of long wavelengths, all of short ones."""
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return ((turns - low) / (high - low)).clamp(0.0, 1.0)


def _kept_by_yarn(num_pairs: int, base: float, scaling: RopeScalingConfig) -> torch.Tensor:
    """Return the share of each frequency that is not stretched; it falls from pair to pair between two of them."""
    first, last = (
        _pair_that_turns(times, num_pairs, base, scaling) for times in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * num_pairs - 1)
    span = last - first or 0.001  # the paper's code avoids a division by zero like this, so others do
    return 1 - ((torch.arange(num_pairs, device="cpu").float() - first) / span).clamp(0.0, 1.0)


def _pair_that_turns(times: float, num_pairs: int, base: float, scaling: RopeScalingConfig) -> float:
    """Return which pair turns this many times over the original length, as a number that need not be whole."""
    wavelength = scaling.original_max_position_embeddings / (2 * math.pi * times)
    return num_pairs * math.log(wavelength) / math.log(base)


class Rotation:
    """Rotates queries and keys by their positions. Cosines and sines are computed once per length and device."""

    def __init__(self, model: ModelConfig, cp: Place = context.WHOLE) -> None:
        self._cp = cp
        self._positions: torch.Tensor | None = None
        self.follow(model)

    def follow(self, model: ModelConfig) -> None:
        """Use the base and the scaling of this configuration from here on."""
        self._frequencies = frequencies(model.rotary_size, model.rotary_base, model.rope_scaling)
        self._num_still = (model.positional_size - model.rotary_size) // 2
        scaling = model.rope_scaling
        self._magnification = scaling.magnification if scaling is not None else 1.0
        self.score_factor = scaling.score_factor if scaling is not None else 1.0
        self._tables: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def place(self, positions_S: torch.Tensor | None) -> None:
        """Take the tokens to stand at these positions from here on; None: one after the other, from 0."""
        self._positions = positions_S
        self._tables = {}

    def __call__(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """Return the rotated tensor, of the same shape and dtype. S are the tokens that this rank holds."""
        cos, sin = self._table(x_SBND.size(0), x_SBND.device)
        if not takes_kernels(x_SBND):
            return rotate(x_SBND, cos, sin)
        return RotationKernel.apply(x_SBND, cos, sin)  # type: ignore[no-untyped-call, no-any-return]

    def split(
        self, mixed_SBGM: torch.Tensor, head_size: int, *, by_sample: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return rotated queries `[S, B, N, D]`, rotated keys and values `[S, B, G, D]` from the QKV projection.

        `M` are the numbers of a group: its heads of queries, then one of keys, one of values. On a GPU this is one
        kernel each way, and nothing holds on to the projection. With `by_sample` a sample lies in one piece, whatever
        the order of the dimensions: a view of `[B, S, N, D]`.
        """
        cos, sin = self._table(mixed_SBGM.size(0), mixed_SBGM.device)
        if not takes_kernels(mixed_SBGM):
            query, key, value = split(mixed_SBGM, head_size)
            return rotate(query, cos, sin), rotate(key, cos, sin), value
        return SplitKernel.apply(mixed_SBGM, cos, sin, by_sample)  # type: ignore[no-untyped-call, no-any-return]

    def _table(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = (length, device)
        if key not in self._tables:
            positions = context.positions(length, self._cp) if self._positions is None else self._positions
            angles = torch.outer(positions.float(), self._frequencies)[:, None, None, :]
            cos, sin = angles.cos() * self._magnification, angles.sin() * self._magnification
            cos, sin = pad(cos, (0, self._num_still), value=1.0), pad(sin, (0, self._num_still))
            self._tables[key] = (cos.to(device), sin.to(device))
        return self._tables[key]


class Rotations:
    """The rotations of all layers: one, or another one in layers with a window."""

    def __init__(self, model: ModelConfig, cp: Place = context.WHOLE) -> None:
        self.elsewhere = Rotation(model, cp)
        self.in_windows = self.elsewhere if model.window_rotary_base is None else Rotation(as_in_windows(model), cp)

    def of(self, model: ModelConfig, layer: int) -> Rotation | None:
        """Return the rotation of a layer, counted from 0; None if nothing is rotated."""
        if model.position_embedding_type != "rope":
            return None
        return self.in_windows if model.windowed_layers[layer] else self.elsewhere

    def follow(self, model: ModelConfig) -> None:
        """Use the base and the scaling of this configuration from here on."""
        self.elsewhere.follow(model)
        if self.in_windows is not self.elsewhere:
            self.in_windows.follow(as_in_windows(model))

    def place(self, positions_S: torch.Tensor | None) -> None:
        """Take the tokens to stand at these positions from here on; None: one after the other, from 0."""
        self.elsewhere.place(positions_S)
        self.in_windows.place(positions_S)


def as_in_windows(model: ModelConfig) -> ModelConfig:
    """Return the model as layers with a window rotate."""
    return model.model_copy(update={"rotary_base": model.window_rotary_base, "rope_scaling": None})


def split(mixed_SBGM: torch.Tensor, head_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut the QKV projection into queries `[S, B, N, D]`, and keys and values `[S, B, G, D]`."""
    shares = mixed_SBGM.size(-1) - 2 * head_size
    query, key, value = torch.split(mixed_SBGM, [shares, head_size, head_size], dim=-1)
    return query.reshape(*query.shape[:2], -1, head_size), key, value


def rotate(x_SBND: torch.Tensor, cos_S11d: torch.Tensor, sin_S11d: torch.Tensor) -> torch.Tensor:
    """Rotate the first half of D against the second, in fp32; `d` is D/2."""
    first, second = x_SBND.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos_S11d - second * sin_S11d, second * cos_S11d + first * sin_S11d), dim=-1)
    return rotated.to(x_SBND.dtype)


class RotationKernel(torch.autograd.Function):
    """`rotate` by its kernel; backward is the same with the opposite angle, and needs the tables only."""

    @staticmethod
    def forward(ctx: Any, x_SBND: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Launch the forward kernel."""
        ctx.save_for_backward(cos, sin)
        return _launch_rotation(x_SBND, cos, sin, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_SBND: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # noqa: ANN401
        """Launch the backward kernel."""
        return _launch_rotation(dy_SBND, *ctx.saved_tensors, back=True), None, None


class SplitKernel(torch.autograd.Function):
    """Cut and rotation by one kernel; backward turns back and joins."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        mixed_SBGM: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        by_sample: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Launch the forward kernel."""
        length, batch, groups, numbers = mixed_SBGM.shape
        head_size = 2 * cos.size(-1)
        heads = (groups * (numbers // head_size - 2), groups, groups)
        order = (batch, length) if by_sample else (length, batch)
        parts = [
            torch.empty(*order, number, head_size, dtype=mixed_SBGM.dtype, device=mixed_SBGM.device) for number in heads
        ]
        _launch_split(mixed_SBGM.contiguous(), parts, cos, sin, by_sample=by_sample, back=False)
        ctx.save_for_backward(cos, sin)
        ctx.shape, ctx.by_sample = mixed_SBGM.shape, by_sample
        query, key, value = _with_length_first(parts, by_sample)
        return query, key, value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:  # noqa: ANN401
        """Launch the backward kernel."""
        parts = [part.contiguous() for part in _with_length_first(gradients, ctx.by_sample)]
        dmixed = torch.empty(ctx.shape, dtype=parts[0].dtype, device=parts[0].device)
        _launch_split(dmixed, parts, *ctx.saved_tensors, by_sample=ctx.by_sample, back=True)
        return dmixed, None, None, None


def _with_length_first(parts: Sequence[torch.Tensor], by_sample: bool) -> list[torch.Tensor]:
    """Swap length and batch if samples lie in one piece: from how they are read to how they lie, and back."""
    return [part.transpose(0, 1) for part in parts] if by_sample else list(parts)


def _launch_rotation(x_SBND: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, *, back: bool) -> torch.Tensor:
    x_SBND = x_SBND.contiguous()
    y_SBND = torch.empty_like(x_SBND)
    if not x_SBND.is_meta:
        from harness.model.kernels import rotary as kernels

        length, batch, heads, head_size = x_SBND.shape
        width = next_power_of_two(head_size // 2)
        taken = min(next_power_of_two(heads), max(1, _NUMBERS_AT_ONCE // width))
        kernels.rotate[(length * batch,)](
            x_SBND,
            y_SBND,
            cos,
            sin,
            batch,
            heads,
            HALF=head_size // 2,
            WIDTH=width,
            HEADS=taken,
            BACK=back,
            num_warps=warps(2 * taken * width),
        )
    return y_SBND


def _launch_split(
    mixed_SBGM: torch.Tensor,
    parts: Sequence[torch.Tensor],
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    by_sample: bool,
    back: bool,
) -> None:
    """Fill queries, keys and values from the projection, or with `back` the projection from them. All contiguous."""
    if mixed_SBGM.is_meta:
        return
    from harness.model.kernels import rotary as kernels

    length, batch, groups, numbers = mixed_SBGM.shape
    half = cos.size(-1)
    shares = numbers // (2 * half) - 2
    width, heads = next_power_of_two(half), next_power_of_two(shares + 2)
    kernel = kernels.rotate_back_and_join if back else kernels.split_and_rotate
    kernel[(length * batch,)](
        mixed_SBGM,
        *parts,
        cos,
        sin,
        batch,
        length,
        GROUPS=groups,
        SHARES=shares,
        HALF=half,
        WIDTH=width,
        HEADS=heads,
        BY_SAMPLE=by_sample,
        num_warps=warps(2 * heads * width),
    )
