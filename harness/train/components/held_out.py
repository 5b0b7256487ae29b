"""The held-out samples of a run: of each channel, and with needles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.channels.channels import Channel
from harness.config.phase_settings import evaluated_in, in_phase
from harness.config.schema import Config
from harness.data.files.checked import UsedPart
from harness.data.needles import DEPTHS, NeedleSet
from harness.data.order.recipe import Recipe
from harness.data.places import place_starts
from harness.data.validation import ValidationSet, open_validation
from harness.model.loss import Sums
from harness.plan.plan import PhasePlan


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The held-out samples of the channels that have some."""

    sets: tuple[ValidationSet, ...]
    num_bytes: dict[str, int]
    """UTF-8 bytes of the text that each channel's targets stand for; empty without a tokenizer."""
    num_channels: int
    """Channels of the run."""
    needles: NeedleSet | None
    """Samples with needles; None if none are asked for."""
    position_starts: tuple[int, ...]
    """First positions whose losses are recorded apart; empty if none are."""

    @property
    def all_sets(self) -> tuple[ValidationSet | NeedleSet, ...]:
        """The sets that an evaluation passes over, in its order."""
        return self.sets if self.needles is None else (*self.sets, self.needles)

    @property
    def sums(self) -> Sums:
        """The sums that losses are added to: channels and their positions, and needles as one more channel by depth."""
        num_depths = len(DEPTHS) if self.needles else 1
        return Sums(self.num_channels + (self.needles is not None), max(num_depths, len(self.position_starts)))

    @property
    def parts(self) -> tuple[UsedPart, ...]:
        """The parts that hold the samples."""
        return tuple(part for held_out in self.sets for part in held_out.parts)


def open_held_out(
    config: Config,
    phase: PhasePlan,
    channels: Sequence[Channel],
    recipe: Recipe,
    table: npt.NDArray[np.int64] | None,
) -> HeldOut | None:
    """Return the held-out samples of the channels that a phase evaluates; None if there are none."""
    settings, names = in_phase(config, phase.index).evaluation, evaluated_in(config, phase.index)
    if not names:
        return None
    wanted, own_recipe = settings.num_samples_per_channel, recipe.of_phase(phase.index)
    opened = [
        open_validation(channel, number, own_recipe, wanted, by_position=settings.loss_by_position)
        for number, channel in enumerate(channels)
        if channel.name in names
    ]
    sets = tuple(held_out for held_out in opened if held_out is not None)
    if not sets:
        return None
    num_bytes = {} if table is None else {held_out.channel_name: count_bytes(held_out, table) for held_out in sets}
    per_depth = settings.num_needles_per_depth
    return HeldOut(
        sets=sets,
        num_bytes=num_bytes,
        num_channels=len(channels),
        needles=None if per_depth is None else NeedleSet(sets, len(channels), per_depth, own_recipe),
        position_starts=place_starts(own_recipe.seq_length) if settings.loss_by_position else (),
    )


def count_bytes(held_out: ValidationSet, bytes_per_token: npt.NDArray[np.int64]) -> int:
    """Return the number of UTF-8 bytes of the text that the targets of a set stand for."""
    return sum(
        int((bytes_per_token[batch.labels_BS.numpy()] * batch.loss_mask_BS.numpy()).sum())
        for batch in held_out.micro_batches(0, 1, 1)
    )
