"""The recipe: all settings of a run that determine the order and the content of its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, Literal

from harness.channels.held_out import HeldOutBy
from harness.config.problems import shortened
from harness.config.schema import ChannelConfig, Config
from harness.errors import CheckpointError
from harness.plan.channel_tokens import evaluated_channels, held_out_share
from harness.plan.plan import PhasePlan


@dataclass(frozen=True, kw_only=True)
class PhaseRecipe:
    """Settings of a phase that determine its samples."""

    shares: Mapping[str, Fraction]
    """Exact share of every channel in use; they add up to 1."""
    seq_length: int


@dataclass(frozen=True, kw_only=True)
class ChannelRules:
    """Rules of one channel: its passes, the order of its documents, and their packing."""

    when_low: Literal["repeat", "wait", "share"] = "repeat"
    max_epochs: int | None = None
    """Allowed passes over the channel; None: one, or without limit under `repeat`."""
    epoch_decay: Fraction = Fraction(1)
    """Factor on the channel's weight at the begin of every epoch but the first."""

    order: Literal["shuffled", "window", "as_written"] = "shuffled"
    """Parts one after the other, each shuffled; windows of parts, each shuffled together; or as they were written."""
    window_parts: int = 1
    packing: Literal["concatenate", "best_fit"] = "concatenate"
    """Documents end to end, or whole wherever they fit into a sample."""

    @property
    def last_epoch(self) -> int | None:
        """Number of epochs after which nothing is drawn from the channel; None: no limit."""
        return self.max_epochs or (None if self.when_low == "repeat" else 1)

    def is_used_up(self, epoch: int) -> bool:
        """Return whether a channel whose next sample is of this epoch has passed its last allowed epoch."""
        return self.last_epoch is not None and epoch >= self.last_epoch


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings that determine the order of the data. Layout, workers and restarts do not."""

    seed: int
    shares: Mapping[str, Fraction]
    """Exact share of every channel in the first phase; they add up to 1. Their order numbers the channels and means
    nothing else. Channels of later phases follow."""
    seq_length: int
    """Sequence length of the first phase."""
    vocab_size: int
    """True vocabulary: token ids are 0 … vocab_size - 1."""
    held_out_share: float
    """Share of each channel's first part that is kept for evaluation."""
    reset_at_document_borders: bool
    eod_mask_loss: bool | None = None
    """See `harness.data.batch.collate`."""
    held_out_by: HeldOutBy = "documents"
    """Measure of that share."""
    later_phases: tuple[PhaseRecipe, ...] = ()
    rules: Mapping[str, ChannelRules] = field(default_factory=dict)
    """Rules of the channels that differ from the default; the default repeats a channel without limit."""

    @property
    def phases(self) -> tuple[PhaseRecipe, ...]:
        """All phases in order."""
        return (PhaseRecipe(shares=self.shares, seq_length=self.seq_length), *self.later_phases)

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Channels of all phases, each once, in the order in which the phases name them; this order numbers them."""
        return tuple(dict.fromkeys(name for phase in self.phases for name in phase.shares))

    def of_phase(self, number: int) -> Recipe:
        """Return a recipe of one phase only, with its shares and sequence length."""
        phase = self.phases[number]
        return replace(self, shares=phase.shares, seq_length=phase.seq_length, later_phases=())


def recipe_for(config: Config, phases: Sequence[PhasePlan], recorded: Mapping[str, Any] | None = None) -> Recipe:
    """Return the recipe of a run with these phases.

    `recorded` is what a checkpoint of the run has of its data (`harness.data.fingerprint`). A run that goes on keeps
    what was held out when it began, so that its order stays as it was.

    Raises:
        CheckpointError: What is recorded is no share, or the run is to evaluate and began without holding anything out.
    """
    share, by = _held_out(config, recorded)
    first, *later = (PhaseRecipe(shares=phase.shares, seq_length=phase.seq_length) for phase in phases)
    return Recipe(
        seed=config.run.seed,
        shares=first.shares,
        seq_length=first.seq_length,
        later_phases=tuple(later),
        rules={name: rules for name, channel in config.data.channels.items() if (rules := _rules(channel)) != _PLAIN},
        vocab_size=config.model.vocab_size,
        held_out_share=share,
        held_out_by=by,
        reset_at_document_borders=config.data.reset_at_document_borders,
        eod_mask_loss=config.data.eod_mask_loss,
    )


def _held_out(config: Config, recorded: Mapping[str, Any] | None) -> tuple[float, HeldOutBy]:
    """Return the share that is held out, and its measure.

    Raises:
        CheckpointError: The checkpoint says something else than a share, or the run began without held-out documents.
    """
    if not recorded:
        return held_out_share(config), "tokens"
    if recorded.get("held_out_by", "documents") == "documents":
        return config.evaluation.held_out_share, "documents"
    share = recorded.get("held_out_share")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise CheckpointError(
            f"the checkpoint says of its data that held_out_share is {shortened(str(share))}; it is a share, from 0 to "
            "1. Go on from another checkpoint."
        )
    if share == 0:
        _require_own_held_out(config)
        return 0.0, "tokens"
    return held_out_share(config) or float(share), "tokens"


def _require_own_held_out(config: Config) -> None:
    lacking = [name for name in evaluated_channels(config) if config.data.channels[name].validation_path is None]
    if lacking:
        raise CheckpointError(
            f"held-out losses of {', '.join(lacking)} are asked for, but the run began without evaluation and trains "
            "on all documents. Give each of these channels a validation_path, leave evaluation.every_steps out, or "
            "start a new run."
        )


def _rules(channel: ChannelConfig) -> ChannelRules:
    return ChannelRules(
        when_low=channel.when_low,
        max_epochs=channel.max_epochs,
        epoch_decay=Fraction(str(channel.epoch_decay)),
        order=channel.order,
        window_parts=channel.window_parts if channel.order == "window" else 1,
        packing=channel.packing,
    )


def rules_of(name: str, rules: Mapping[str, ChannelRules]) -> ChannelRules:
    """Return the rules of a channel; by default it is repeated without limit."""
    return rules.get(name, _PLAIN)


def current_shares(
    shares: Mapping[str, Fraction], epochs: Mapping[str, int], rules: Mapping[str, ChannelRules]
) -> dict[str, Fraction]:
    """Return the exact shares of the channels that can be drawn from; empty if all are used up.

    They are those of the phase, lowered in later epochs. `epochs` has the epoch of each channel's next sample.
    """
    weights = {}
    for name, share in shares.items():
        of_channel = rules_of(name, rules)
        if not of_channel.is_used_up(epochs[name]):
            weights[name] = share * of_channel.epoch_decay ** epochs[name]
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


_PLAIN = ChannelRules()
