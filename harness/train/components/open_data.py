"""Opens the data of a run: the training stream, the held-out samples, and the arrivals of new parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from harness.channels.channels import Channel, open_channel
from harness.channels.parts import check_headers
from harness.config.identity import identity_of
from harness.config.schema import Config
from harness.data.arrivals import Arrivals
from harness.data.fingerprint import data_fingerprint
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import Recipe, recipe_for
from harness.data.part_checks import PartChecks
from harness.data.stream import BatchShape, TrainingStream
from harness.parallel.ranks import Ranks
from harness.plan.channel_tokens import evaluated_channels
from harness.plan.plan import Plan
from harness.train.components.found import Start
from harness.train.components.held_out import HeldOut, open_held_out
from harness.train.components.run_tokenizer import RunTokenizer
from harness.train.components.sound_parts import SoundParts


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run, opened on one rank."""

    stream: TrainingStream
    channel_names: tuple[str, ...]
    """Channel names by channel id: first those that are trained on, then those that are only evaluated."""
    held_out: tuple[HeldOut | None, ...]
    """Held-out samples by phase; None if it evaluates nothing or has no held-out samples."""
    recipe: Recipe
    identity: dict[str, Any]
    """Model and tokenizer, as plain JSON values."""
    arrivals: Arrivals | None
    """Looks for new parts, on the writer."""
    sound_parts: SoundParts | None
    """Knowledge of the soundness of parts; None if they are not checked."""
    notes: tuple[str, ...]
    """Remarks about the tokenizer of the run, its checkpoint and its channels, for people."""

    def fingerprint(self, cursor: Cursor) -> dict[str, Any]:
        """Return model, data and tokenizer at a cursor, on which the weights depend, as plain JSON values."""
        told = data_fingerprint(self.stream.channels, self.recipe, cursor.history, self.stream.digest_of)
        return self.identity | {"data": told}

    def close(self) -> None:
        """End the threads that read ahead and look for new parts."""
        self.stream.close()
        if self.arrivals is not None:
            self.arrivals.close()
        if self.sound_parts is not None:
            self.sound_parts.close()


def list_channels(config: Config, plan: Plan, start: Start) -> tuple[Channel, ...]:
    """Return the channels of all phases by channel id, to go on from a start, with their files looked at.

    One rank does it for all: of many parts on a shared disk it takes minutes, and its server suffers. The others look
    at a part when its turn comes. Parts that were finished since the start are left out, and adopted later. Of channels
    that the run has not used yet all parts are used.

    Raises:
        DataError: A channel is missing, damaged, or does not fit the configuration.
        CheckpointError: The run is to evaluate, and began without holding anything out.
    """
    recipe, num_parts = recipe_for(config, plan.phases, start.recorded_data), start.num_parts
    channels = [open_channel(name, config.data.channels[name], num_parts.get(name)) for name in recipe.channel_names]
    evaluated = [name for phase in config.phases for name in phase.evaluation.channels or ()]
    later = list(dict.fromkeys((*recipe.channel_names, *evaluated, *evaluated_channels(config))))[len(channels) :]
    channels += [open_channel(name, config.data.channels[name]) for name in later]
    for channel in channels:
        check_headers(channel.name, (*channel.parts, *(channel.validation_parts or ())), config.model.vocab_size)
    return tuple(channels)


def open_data(
    config: Config, plan: Plan, ranks: Ranks, tokenizer: RunTokenizer, start: Start, *, device: torch.device
) -> RunData:
    """Open the channels of all phases, as `list_channels` has found them, to go on from a start.

    Raises:
        DataError: A part that is used first is damaged.
        CheckpointError: The run is to evaluate, and began without holding anything out.
    """
    recipe, channels = recipe_for(config, plan.phases, start.recorded_data), start.channels
    stream = TrainingStream(
        list(channels[: len(recipe.channel_names)]),
        recipe,
        lambda cursor: _shape(plan, ranks, cursor, pin_memory=device.type == "cuda"),
        num_prefetch_batches=config.data.num_prefetch_batches,
    )
    table = _bytes_of_ids(config, tokenizer)
    return RunData(
        stream=stream,
        channel_names=tuple(channel.name for channel in channels),
        held_out=tuple(open_held_out(config, phase, channels, recipe, table) for phase in plan.phases),
        recipe=recipe,
        identity=_identity(config, tokenizer),
        arrivals=_look_out(config, stream.channels) if ranks.is_writer and config.data.adopt_parts else None,
        sound_parts=_sound_parts(config, ranks, start, device),
        notes=(*tokenizer.notes, *_notes(config, tokenizer, table)),
    )


def _sound_parts(config: Config, ranks: Ranks, start: Start, device: torch.device) -> SoundParts | None:
    """Return what is known of the parts, or None if they are not to be checked."""
    if config.data.damaged_parts == "ignore":
        return None
    place, vocab_size = ranks.world, config.model.vocab_size
    checks = PartChecks(vocab_size, rank=place.rank, num_ranks=place.size, earlier=start.checked_parts)
    return SoundParts(checks, device, start.checked_parts)


def _bytes_of_ids(config: Config, tokenizer: RunTokenizer) -> npt.NDArray[np.int64] | None:
    """Return the UTF-8 bytes of each id of the model, [vocab_size]; None where they are not known, or not needed."""
    if tokenizer.opened is None or not evaluated_channels(config):
        return None
    sizes = tokenizer.opened.bytes_per_token()
    if sizes is None:
        return None
    table = np.zeros(config.model.vocab_size, dtype=np.int64)  # ids that only the model has stand for no text
    table[: len(sizes)] = sizes
    return table


def _notes(config: Config, tokenizer: RunTokenizer, table: npt.NDArray[np.int64] | None) -> list[str]:
    if table is not None or tokenizer.opened is None or not evaluated_channels(config):
        return []
    return [
        f"{config.data.tokenizer} does not tell how many bytes of text its tokens stand for: held-out losses are given "
        "in nats, and no bits per byte"
    ]


def _look_out(config: Config, channels: Sequence[Channel]) -> Arrivals:
    return Arrivals(
        {channel.name: channel for channel in channels},
        {channel.name: config.data.channels[channel.name].path for channel in channels},
        vocab_size=config.model.vocab_size,
        every_s=config.data.adopt_every_s,
    )


def _shape(plan: Plan, ranks: Ranks, cursor: Cursor, *, pin_memory: bool) -> BatchShape:
    """Return the shape of the batch that begins at a cursor. Its size follows from the samples of the phase so far."""
    phase = plan.phases[cursor.phase]
    return BatchShape(
        global_batch_size=phase.batch_sizes.after_samples(cursor.consumed_samples - cursor.phase_begun_at),
        micro_batch_size=phase.micro_batch_size,
        dp_rank=ranks.dp.rank,
        dp_size=ranks.dp.size,
        reads_tokens=ranks.reads_tokens,
        pin_memory=pin_memory,
    )


def _identity(config: Config, tokenizer: RunTokenizer) -> dict[str, Any]:
    return {
        "model": identity_of(config.model),
        "tokenizer": None if tokenizer.identity is None else tokenizer.identity.as_json(),
    }
