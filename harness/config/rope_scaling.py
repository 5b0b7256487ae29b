"""Rotary frequencies for longer sequences, as a user says it for the model or for a phase."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from harness.config.section import NonNegativeFloat, PositiveFloat, SampleTokens, Section

ScalingType = Literal["linear", "ntk", "llama3", "yarn"]


class RopeScalingConfig(Section):
    """Scaling of the rotary frequencies for sequences longer than the base was chosen for."""

    type: ScalingType
    """`linear` divides positions by `factor`. `ntk` raises the base by factor^(d/(d-2)), where d is the size of a head.
    `llama3` and `yarn` stretch low frequencies only; `yarn` also makes queries and keys larger."""
    factor: PositiveFloat
    """Factor by which the context grows."""
    low_freq_factor: PositiveFloat = 1.0
    """`llama3` only: wavelengths longer than `original_max_position_embeddings / low_freq_factor` are stretched
    fully."""
    high_freq_factor: PositiveFloat = 4.0
    """`llama3` only: wavelengths shorter than `original_max_position_embeddings / high_freq_factor` are not
    stretched."""
    original_max_position_embeddings: SampleTokens = 8192
    """`llama3` and `yarn` only: the sequence length before stretching, in tokens."""
    beta_fast: PositiveFloat = 32.0
    """`yarn` only: pairs that turn more often than this over the original length are not stretched."""
    beta_slow: PositiveFloat = 1.0
    """`yarn` only: pairs that turn less often than this over the original length are stretched fully."""
    mscale: NonNegativeFloat = 1.0
    """`yarn` only: rotated queries and keys are multiplied with (0.1 · mscale · ln factor + 1), over the same with
    `mscale_all_dim`."""
    mscale_all_dim: NonNegativeFloat = 0.0
    """`yarn` only: see `mscale`. Equal values cancel out. Scores of latent attention are multiplied with the square of
    (0.1 · mscale_all_dim · ln factor + 1) besides."""
    attention_factor: PositiveFloat | None = None
    """`yarn` only: the number that rotated queries and keys are multiplied with. Default: what `mscale` gives."""
    truncate: bool = True
    """`yarn` only: begin and end the blend between stretched and not stretched at whole pairs."""

    @property
    def magnification(self) -> float:
        """The number that rotated queries and keys are multiplied with (YaRN, section 3.4)."""
        if self.type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return _temperature(self.factor, self.mscale) / _temperature(self.factor, self.mscale_all_dim)

    @property
    def score_factor(self) -> float:
        """The number that scores of latent attention are multiplied with besides, as in DeepSeek's models."""
        return _temperature(self.factor, self.mscale_all_dim) ** 2 if self.type == "yarn" else 1.0


def _temperature(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


_LENGTH = "original_max_position_embeddings"
OPTIONS: Mapping[ScalingType, tuple[str, ...]] = {
    "linear": (),
    "ntk": (),
    "llama3": ("low_freq_factor", "high_freq_factor", _LENGTH),
    "yarn": (_LENGTH, "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate"),
}
"""Settings that each type has beside its factor."""
