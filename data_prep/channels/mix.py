"""Plans a blend: how many tokens of each channel a run takes, how often each repeats, and what is missing.

A channel can give at most `max_epochs` times its tokens. What a channel cannot give is taken from the others in
proportion to their shares, until all is given or no channel has any left (water-filling). The shares are given, or
follow from the tokens that the channels have (`data_prep.channels.sampling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from data_prep.channels.sampling import epoch_limit, temperature_weights, unimax_tokens
from data_prep.text.named_inputs import draw_by_weight
from harness.errors import UsageError
from harness.plan.repetition import repetition_text


@dataclass(frozen=True, kw_only=True)
class Supply:
    """A channel, as the plan needs to know it."""

    name: str
    path: Path
    tokens: int
    """Tokens in its finished parts."""
    used_epochs: Fraction = Fraction(0)
    """Passes over it in other phases of the run."""


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
    """Number of times that the run reads the channel, those of other phases among them."""
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
    return _plan(
        supplies,
        weights,
        draw_by_weight(_limits(supplies, max_epochs), weights, train_tokens),
        train_tokens,
        max_epochs,
    )


def plan_by_temperature(
    supplies: Sequence[Supply], temperature: float, train_tokens: int, max_epochs: float
) -> MixPlan:
    """Compute the blend whose shares follow from the tokens of the channels by temperature.

    Raises:
        UsageError: A channel is empty, or two have the same name.
    """
    _check(supplies, dict.fromkeys((supply.name for supply in supplies), 1.0))
    shares = temperature_weights({supply.name: supply.tokens for supply in supplies}, temperature)
    return plan_mix(supplies, shares, train_tokens, max_epochs)


def plan_by_unimax(supplies: Sequence[Supply], train_tokens: int, max_epochs: float) -> MixPlan:
    """Compute the blend that is as even as the limit on epochs allows. The wanted shares are equal.

    Raises:
        UsageError: A channel is empty, two have the same name, or there is not a token for each.
    """
    weights = {supply.name: Fraction(1) for supply in supplies}
    _check(supplies, dict.fromkeys(weights, 1.0))
    given = unimax_tokens(_limits(supplies, max_epochs), train_tokens)
    return _plan(supplies, weights, given, train_tokens, max_epochs)


def repetition_warnings(plan: MixPlan) -> list[str]:
    """Return a warning for each channel that the plan reads too often."""
    texts = (
        repetition_text(
            channel.name, channel.epochs * channel.available_tokens, channel.available_tokens, channel.epochs
        )
        for channel in plan.channels
    )
    return [text for text in texts if text is not None]


def to_yaml(plan: MixPlan, *, in_tokens: bool = False) -> str:
    """Return the plan as part of a run's configuration; weights in tokens are exact, shares are rounded."""
    channels = "\n".join(f"    {channel.name}: {{path: {channel.path}}}" for channel in plan.channels)
    return (
        f"data:\n  channels:\n{channels}\n"
        f"# in the phase that uses it ({plan.planned_tokens:,} tokens):\n"
        f"#   train_tokens: {plan.planned_tokens}\n#   blend: {blend_text(plan, in_tokens=in_tokens)}\n"
    )


def blend_text(plan: MixPlan, *, in_tokens: bool = False) -> str:
    """Return the weights of the channels as a phase of a configuration has them, `{zh: 0.75, en: 0.25}`."""
    weights = (
        f"{channel.name}: {channel.planned_tokens if in_tokens else f'{channel.share:.6g}'}"
        for channel in plan.channels
        if channel.planned_tokens
    )
    return "{" + ", ".join(weights) + "}"


def _limits(supplies: Sequence[Supply], max_epochs: float) -> dict[str, int]:
    return {supply.name: epoch_limit(supply.tokens, max_epochs, supply.used_epochs) for supply in supplies}


def _plan(
    supplies: Sequence[Supply],
    weights: Mapping[str, Fraction],
    given: Mapping[str, int],
    train_tokens: int,
    max_epochs: float,
) -> MixPlan:
    total, limits, planned = sum(weights.values()), _limits(supplies, max_epochs), sum(given.values())
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
                epochs=float(supply.used_epochs) + given[supply.name] / supply.tokens,
                missing_tokens=-int(-short / Fraction(max_epochs) // 1) if short else 0,
            )
        )
    return MixPlan(
        channels=tuple(channels),
        train_tokens=train_tokens,
        planned_tokens=planned,
        max_epochs=max_epochs,
        longest_tokens_at_wanted_shares=min(int(limits[name] * total / weights[name]) for name in weights),
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
