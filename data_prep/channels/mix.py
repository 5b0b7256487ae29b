"""Plans a blend: how many tokens of each channel a run takes, how often each repeats, and what is missing.

A channel can give at most `max_epochs` times its tokens. What a channel cannot give is taken from the others in
proportion to their shares, until all is given or no channel has any left (water-filling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data_prep.text.named_inputs import draw_by_weight
from harness.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Supply:
    """A channel, as the plan needs to know it."""

    name: str
    path: Path
    tokens: int
    """Tokens in its finished parts."""


@dataclass(frozen=True, kw_only=True)
class ChannelPlan:
    """The use of a channel by a run."""

    name: str
    path: str
    available_tokens: int
    wanted_share: float
    wanted_tokens: int
    """Its share of the run."""
    share: float
    """The share that it gets."""
    planned_tokens: int
    epochs: float
    """Number of times that the run reads the channel."""
    missing_tokens: int
    """Tokens by which it would have to grow, to give its wanted share within the limit on epochs."""


@dataclass(frozen=True, kw_only=True)
class MixPlan:
    """A blend, and how far it goes."""

    channels: tuple[ChannelPlan, ...]
    train_tokens: int
    """Tokens of the run that was asked for."""
    planned_tokens: int
    """Tokens that the channels can give: fewer than asked for if all are used up."""
    max_epochs: float
    longest_tokens_at_wanted_shares: int
    """The longest run in which every channel has its wanted share within the limit on epochs."""


def plan_mix(supplies: Sequence[Supply], shares: Mapping[str, float], train_tokens: int, max_epochs: float) -> MixPlan:
    """Compute the blend. The shares are wanted weights by the name of the channel; they need not add up to 1.

    Raises:
        UsageError: A share is of no channel, a channel has no share, or a channel is empty.
    """
    _check(supplies, shares)
    weights = {supply.name: Fraction(shares[supply.name]) for supply in supplies}
    total = sum(weights.values())
    limits = {supply.name: int(supply.tokens * Fraction(max_epochs)) for supply in supplies}
    given = draw_by_weight(limits, weights, train_tokens)
    planned = sum(given.values())
    if planned == 0:
        raise UsageError(
            f"the channels hold {sum(supply.tokens for supply in supplies):,} tokens; at --max-epochs {max_epochs:g} "
            "that leaves none to train on: raise --max-epochs or --tokens, or add data."
        )
    channels = []
    for supply in supplies:
        wanted = int(train_tokens * weights[supply.name] / total)
        short = max(0, wanted - limits[supply.name])
        channels.append(
            ChannelPlan(
                name=supply.name,
                path=str(supply.path),
                available_tokens=supply.tokens,
                wanted_share=float(weights[supply.name] / total),
                wanted_tokens=wanted,
                share=given[supply.name] / planned,
                planned_tokens=given[supply.name],
                epochs=given[supply.name] / supply.tokens,
                missing_tokens=-int(-short / Fraction(max_epochs) // 1) if short else 0,
            )
        )
    longest = min(int(limits[name] * total / weights[name]) for name in weights)
    return MixPlan(
        channels=tuple(channels),
        train_tokens=train_tokens,
        planned_tokens=planned,
        max_epochs=max_epochs,
        longest_tokens_at_wanted_shares=longest,
    )


def to_yaml(plan: MixPlan) -> str:
    """Return the plan as part of a run's configuration."""
    channels = "\n".join(f"    {channel.name}: {{path: {channel.path}}}" for channel in plan.channels)
    blend = ", ".join(f"{channel.name}: {channel.share:.6g}" for channel in plan.channels if channel.planned_tokens)
    return (
        f"data:\n  channels:\n{channels}\n"
        f"# in the phase that uses it ({plan.planned_tokens:,} tokens):\n"
        f"#   train_tokens: {plan.planned_tokens}\n#   blend: {{{blend}}}\n"
    )


def _check(supplies: Sequence[Supply], shares: Mapping[str, float]) -> None:
    names = [supply.name for supply in supplies]
    if len(set(names)) < len(names):
        raise UsageError(f"two channels have the same name ({', '.join(names)}). Rename a folder: names are the keys.")
    unknown = [name for name in shares if name not in names]
    if unknown:
        raise UsageError(f"--share {unknown[0]}: there is no such channel. Channels: {', '.join(names)}.")
    without = [name for name in names if name not in shares]
    if without:
        raise UsageError(f"channel {without[0]} has no share. Give --share {without[0]}=WEIGHT, or leave it out.")
    empty = [supply.name for supply in supplies if supply.tokens == 0]
    if empty:
        raise UsageError(f"channel {empty[0]} has no tokens yet: no share of it can be planned.")
