"""Compares the tokens that the phases want from each channel with the tokens that it has and may repeat."""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.schema import ChannelConfig, Config
from harness.errors import ConfigError
from harness.plan.channel_tokens import TrainTokens, held_out_share, tokens_to_train_on
from harness.plan.plan import Plan
from harness.plan.repetition import ROUNDING, repetition_text


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
    epochs_by_phase: tuple[float, ...] | None
    """Passes through the channel up to the end of each phase, counted in samples as the run counts them; None if not
    known."""

    @property
    def epochs(self) -> float | None:
        """Passes through the channel over all phases; None if not known."""
        return None if self.epochs_by_phase is None else self.epochs_by_phase[-1]

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
    texts = (
        repetition_text(demand.channel, demand.train_tokens, demand.available_tokens, demand.epochs)
        for demand in found
        if demand.epochs is not None and demand.available_tokens is not None and demand.max_epochs is None
    )
    return [text for text in texts if text is not None]


def limit_problems(config: Config, found: list[ChannelDemand]) -> list[str]:
    """Return why phases want more passes through a channel than they allow (`phases.N.max_epochs`), a line for each.

    A channel that waits for parts, or that its own limit keeps below that of the phase, is never passed through so
    often. Lengths are rounded up to whole steps, which counts for nothing here.
    """
    problems = []
    for index, phase in enumerate(config.phases):
        if phase.max_epochs is None:
            continue
        for demand in found:
            is_kept_below = demand.max_epochs is not None and demand.max_epochs <= phase.max_epochs
            if demand.channel not in phase.blend or demand.epochs_by_phase is None or is_kept_below:
                continue
            epochs = demand.epochs_by_phase[index]
            if not demand.waits_for_parts and epochs > phase.max_epochs * ROUNDING:
                asked = sum(demand.tokens_by_phase[: index + 1])
                problems.append(
                    f"phases.{index}.max_epochs: channel {demand.channel} would be passed through {epochs:,.2f} times "
                    f"by the end of phase {phase.name}: {asked:,} tokens are asked, and as of now "
                    f"{demand.available_tokens:,} are there; at most {phase.max_epochs:g} times are allowed. Add "
                    "parts, lower its weight (`harness data mix --run` computes weights), shorten a phase, let it wait "
                    "for parts (when_low: wait), or raise max_epochs"
                )
    return problems


def shortage_problems(found: list[ChannelDemand]) -> list[str]:
    """Return why existing data do not suffice for a plan, one line a channel; channels may wait for parts instead."""
    return [
        f"{shortage}. Add parts, raise max_epochs, lower the channel's weight, shorten a phase, or let it wait for "
        "parts (when_low: wait)"
        for demand in found
        if not demand.waits_for_parts and (shortage := demand.shortage())
    ]


def require_within_limits(config: Config, plan: Plan) -> None:
    """Return if no phase wants more passes through a channel than it allows. Without limits no file is read.

    Raises:
        ConfigError: With a line for each channel and phase.
    """
    if any(phase.max_epochs is not None for phase in config.phases) and (
        problems := limit_problems(config, demands(config, plan))
    ):
        raise ConfigError(problems)


def _demand(name: str, channel: ChannelConfig, config: Config, plan: Plan) -> ChannelDemand:
    found = tokens_to_train_on(channel, held_out_share(config))
    return ChannelDemand(
        channel=name,
        tokens_by_phase=tuple(int(phase.shares.get(name, 0) * phase.train_tokens) for phase in plan.phases),
        available_tokens=None if found is None else found.total,
        max_epochs=channel.max_epochs or (None if channel.when_low == "repeat" else 1),
        waits_for_parts=channel.when_low == "wait",
        epochs_by_phase=None if found is None else _epochs(name, found, plan),
    )


def _epochs(name: str, found: TrainTokens, plan: Plan) -> tuple[float, ...] | None:
    """Return the passes through a channel up to the end of each phase, by its samples; None if none fits."""
    passes, by_phase = 0.0, []
    for phase in plan.phases:
        if name in phase.shares:
            num_samples = found.num_samples(phase.seq_length)
            if num_samples == 0:
                return None
            passes += float(phase.shares[name] * phase.train_samples) / num_samples
        by_phase.append(passes)
    return tuple(by_phase)
