"""The share of each channel at a point of the run: the phase's, lowered in later epochs, 0 once it is used up."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from harness.data.order.recipe import ChannelRules, rules_of


def is_used_up(epoch: int, rules: ChannelRules) -> bool:
    """Return whether a channel whose next sample is of this epoch has passed its last allowed epoch."""
    return rules.last_epoch is not None and epoch >= rules.last_epoch


def changes_at_epochs(rules: ChannelRules) -> bool:
    """Return whether the channel's weight differs from epoch to epoch."""
    return rules.epoch_decay != 1


def current_shares(
    shares: Mapping[str, Fraction], epochs: Mapping[str, int], rules: Mapping[str, ChannelRules]
) -> dict[str, Fraction]:
    """Return the exact shares of the channels that can be drawn from; empty if all are used up.

    Args:
        shares: Share of each channel in the phase.
        epochs: Epoch of each channel's next sample.
        rules: Rules of the channels that have some.
    """
    weights = {}
    for name, share in shares.items():
        channel_rules = rules_of(name, rules)
        if not is_used_up(epochs[name], channel_rules):
            weights[name] = share * channel_rules.epoch_decay ** epochs[name]
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
