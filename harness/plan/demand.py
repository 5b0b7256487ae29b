"""Compares the tokens that the phases want from each channel with the tokens that it has and may repeat."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.schema import ChannelConfig, Config
from harness.plan.channel_tokens import TrainTokens, held_out_share, tokens_to_train_on
from harness.plan.plan import Plan

MANY_EPOCHS = 16
"""Passes over a channel above which people are told: by Muennighoff et al. (2023) four are nearly as good as new text,
and beyond sixteen little is left of the gain."""


@dataclass(frozen=True, kw_only=True)
class ChannelDemand:
    """The demand of a run for one channel."""

    channel: str
    tokens_by_phase: tuple[int, ...]
    """By the shares of the blends; a weight that falls with the epochs (`epoch_decay`) makes them fewer."""
    available_tokens: int | None
    """Tokens of one epoch at present; None if they are not known."""
    max_epochs: int | None
    """Allowed passes over them; None: no limit."""
    waits_for_parts: bool
    """Training would wait for further parts."""
    epochs: float | None
    """Passes through the channel over all phases, counted in samples as the run counts them; None if not known."""

    @property
    def train_tokens(self) -> int:
        """Tokens over all phases."""
        return sum(self.tokens_by_phase)

    @property
    def missing_tokens(self) -> int:
        """Tokens that are wanted beyond what may be used; 0 where that is not known or not limited."""
        if self.available_tokens is None or self.max_epochs is None:
            return 0
        return max(0, self.train_tokens - self.max_epochs * self.available_tokens)

    def shortage(self) -> str | None:
        """Return a description of the missing tokens; None if none are missing."""
        if not self.missing_tokens:
            return None
        times = "once" if self.max_epochs == 1 else f"{self.max_epochs} times (max_epochs)"
        return (
            f"channel {self.channel}: the phases want {self.train_tokens:,} tokens, but {self.available_tokens:,} are "
            f"there and may be used {times}: {self.missing_tokens:,} tokens are missing"
        )


def demands(config: Config, plan: Plan) -> list[ChannelDemand]:
    """Return the demand of a plan's phases for every channel that they use. Reads existing lists of parts."""
    names = dict.fromkeys(name for phase in plan.phases for name in phase.shares)
    return [_demand(name, config.data.channels[name], config, plan) for name in names]


def repetition_notes(found: list[ChannelDemand]) -> list[str]:
    """Return a note for each channel that would be passed through more often than repetition helps."""
    return [
        f"channel {demand.channel} would be passed through {demand.epochs:,.0f} times: {demand.train_tokens:,} tokens "
        f"of {demand.available_tokens:,}. Beyond about {MANY_EPOCHS} passes repeated text teaches next to nothing: add "
        "parts, lower its weight, or set max_epochs"
        for demand in found
        if demand.epochs is not None and demand.epochs > MANY_EPOCHS and demand.max_epochs is None
    ]


def shortage_problems(found: list[ChannelDemand]) -> list[str]:
    """Return why existing data do not suffice for a plan, one line a channel; channels may wait for parts instead."""
    return [
        f"{shortage}. Add parts, raise max_epochs, lower the channel's weight, shorten a phase, or let it wait for "
        "parts (when_low: wait)"
        for demand in found
        if not demand.waits_for_parts and (shortage := demand.shortage())
    ]


def _demand(name: str, channel: ChannelConfig, config: Config, plan: Plan) -> ChannelDemand:
    found = tokens_to_train_on(channel, held_out_share(config))
    return ChannelDemand(
        channel=name,
        tokens_by_phase=tuple(int(phase.shares.get(name, 0) * phase.train_tokens) for phase in plan.phases),
        available_tokens=None if found is None else found.total,
        max_epochs=channel.max_epochs or (None if channel.when_low == "repeat" else 1),
        waits_for_parts=channel.when_low == "wait",
        epochs=None if found is None else _epochs(name, found, plan),
    )


def _epochs(name: str, found: TrainTokens, plan: Plan) -> float | None:
    """Return the passes through a channel, by the samples of an epoch in each phase; None if a sample does not fit."""
    passes = 0.0
    for phase in plan.phases:
        if name in phase.shares:
            num_samples = found.num_samples(phase.seq_length)
            if num_samples == 0:
                return None
            passes += float(phase.shares[name] * phase.train_samples) / num_samples
    return passes
