"""Weights of channels by the tokens that they have: by temperature, or by UniMax. Pure functions.

Temperature: a channel of n tokens has the weight n^(1/T). At T = 1 each text is read equally often; the higher T, the
more alike are the channels, and the more often small ones repeat. T = 1/0.3 is the 0.3 of mT5 and XLM-R.

UniMax (Chung et al., "UniMax: Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining",
2023): all channels get the same number of tokens, but none more than so many epochs. From the smallest on, each takes
an equal part of what is left of the budget, or all that it may give.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from harness.errors import UsageError


def temperature_weights(tokens: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Return the share of each channel, which add up to 1.

    Args:
        tokens: Tokens of each channel, above 0.
        temperature: 1 for shares as the tokens are; towards infinity all shares are equal.
    """
    most = max(tokens.values())  # ratios to the largest: no power overflows
    powers = {name: (count / most) ** (1 / temperature) for name, count in tokens.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def unimax_tokens(limits: Mapping[str, int], budget: int) -> dict[str, int]:
    """Return the tokens of each channel: as even as its limit allows, and the budget in all if there is so much.

    Args:
        limits: Most tokens that each channel may give: its tokens times the epochs that are allowed.
        budget: Tokens of all channels together.

    Raises:
        UsageError: The budget has less than a token for each channel.
    """
    if budget < len(limits):
        raise UsageError(f"{budget:,} tokens are not one for each of {len(limits):,} channels: raise --tokens.")
    taken: dict[str, int] = {}
    rest = budget
    for number, name in enumerate(sorted(limits, key=lambda name: (limits[name], name))):
        taken[name] = min(limits[name], rest // (len(limits) - number))
        rest -= taken[name]
    return {name: taken[name] for name in limits}


def epoch_limit(tokens: int, max_epochs: float, used_epochs: Fraction = Fraction(0)) -> int:
    """Return the most tokens that a channel may give, in whole tokens, beyond the epochs that are used already."""
    return max(0, int(tokens * (Fraction(max_epochs) - used_epochs)))
