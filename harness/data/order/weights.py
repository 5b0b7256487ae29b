"""The shares of the channels at a moment: the phase's, less in later epochs, none for a channel that is used up."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from harness.data.order.recipe import ChannelRules, rules_of


def is_used_up(epoch: int, rules: ChannelRules) -> bool:
    """Whether a channel has no sample left that may be drawn, if its next one is of this epoch."""
    return rules.last_epoch is not None and epoch >= rules.last_epoch


def changes_at_epochs(rules: ChannelRules) -> bool:
    """Whether the channel's weight is another one in every epoch."""
    return rules.epoch_decay != 1


def current_shares(
    shares: Mapping[str, Fraction], epochs: Mapping[str, int], rules: Mapping[str, ChannelRules]
) -> dict[str, Fraction]:
    """Exact shares of the channels that can be drawn from; empty if there is none.

    Args:
        shares: Those of the phase.
        epochs: The epoch that the next sample of each channel is of.
        rules: Of the channels that have some.
    """
    weights = {}
    for name, share in shares.items():
        of_channel = rules_of(name, rules)
        if not is_used_up(epochs[name], of_channel):
            weights[name] = share * of_channel.epoch_decay ** epochs[name]
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}
