"""Rotary position embedding: frequencies, their stretching for long contexts, and the rotation.

Shapes: S sequence, B micro batch, N heads, D head size. Halves are rotated against each other (as in Llama and
Hugging Face), not neighbouring pairs.
"""

from __future__ import annotations

import math

import torch

from harness.config.schema import ModelConfig, RopeScalingConfig
from harness.model import context
from harness.model.fusion import on_device
from harness.parallel.ranks import Place


def frequencies(head_size: int, base: float, scaling: RopeScalingConfig | None) -> torch.Tensor:
    """Return the angle per position of each rotated pair: `[D/2]`, fp32 on the CPU.

    Sources: RoFormer (base), position interpolation (`linear`), NTK-aware scaling (`ntk`), Llama 3.1 (`llama3`).
    """
    if scaling is not None and scaling.type == "ntk":
        base = base * scaling.factor ** (head_size / (head_size - 2))
    exponents = torch.arange(0, head_size, 2, device="cpu", dtype=torch.int64).float() / head_size
    plain = 1.0 / (base**exponents)
    if scaling is None or scaling.type == "ntk":
        return plain
    if scaling.type == "linear":
        return plain / scaling.factor
    return _stretch_low_frequencies(plain, scaling)


def _stretch_low_frequencies(plain: torch.Tensor, scaling: RopeScalingConfig) -> torch.Tensor:
    """Apply Llama 3.1's rule: divide long wavelengths by the factor, keep short ones, blend linearly in between."""
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return (1 - smooth) * plain / scaling.factor + smooth * plain


class Rotation:
    """Rotates queries and keys by their positions. Cosines and sines are computed once per length and device."""

    def __init__(self, model: ModelConfig, cp: Place = context.WHOLE) -> None:
        self._cp = cp
        self.follow(model)

    def follow(self, model: ModelConfig) -> None:
        """Use the base and the scaling of this configuration from here on."""
        self._frequencies = frequencies(model.head_size, model.rotary_base, model.rope_scaling)
        self._tables: dict[tuple[int, torch.device], tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, x_SBND: torch.Tensor) -> torch.Tensor:
        """Return the rotated tensor, of the same shape and dtype. S are the tokens that this rank holds."""
        cos, sin = self._table(x_SBND.size(0), x_SBND.device)
        return on_device(rotate, x_SBND.device)(x_SBND, cos, sin)

    def _table(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        key = (length, device)
        if key not in self._tables:
            positions = context.positions(length, self._cp).float()
            angles = torch.outer(positions, self._frequencies)[:, None, None, :]
            self._tables[key] = (angles.cos().to(device), angles.sin().to(device))
        return self._tables[key]


def rotate(x_SBND: torch.Tensor, cos_S11d: torch.Tensor, sin_S11d: torch.Tensor) -> torch.Tensor:
    """Rotate the first half of D against the second, in fp32; `d` is D/2."""
    first, second = x_SBND.float().chunk(2, dim=-1)
    rotated = torch.cat((first * cos_S11d - second * sin_S11d, second * cos_S11d + first * sin_S11d), dim=-1)
    return rotated.to(x_SBND.dtype)
