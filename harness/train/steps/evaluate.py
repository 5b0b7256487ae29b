"""Held-out loss of every channel. A command that interrupts training ends it early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from harness.data.batch import Batch
from harness.data.needles import DEPTHS
from harness.parallel.ranks import Ranks
from harness.run import metric_names as names
from harness.run.commands.command import Command
from harness.train.components.held_out import HeldOut
from harness.train.components.inbox import Inbox
from harness.train.components.mcore import Pipeline, Totals


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation. Equal on every rank."""

    values: dict[str, float]
    """Metrics by name; empty if a command to stop ended it early."""
    commands: list[Command]
    """Commands that came meanwhile."""


def evaluate(
    pipeline: Pipeline,
    held_out: HeldOut | None,
    ranks: Ranks,
    num_microbatches: int,
    inbox: Inbox,
) -> Evaluation:
    """Return the losses of all held-out samples. Every rank must call it.

    Works through the samples in steps of `num_microbatches`, like training, so that it reacts to a command as quickly.
    A command to stop ends it. One to save or for evidence waits until the end, because the state does not change
    meanwhile.
    """
    arrived: list[Command] = []
    if held_out is None:
        return Evaluation(values={}, commands=arrived)
    own = (ranks.dp.rank, ranks.dp.size, pipeline.micro_batch_size)
    batches = chain.from_iterable(each.micro_batches(*own) for each in held_out.all_sets)
    sums: list[Totals] = []
    while chunk := list(islice(batches, num_microbatches)):
        chunk += [_masked(chunk[-1])] * (num_microbatches - len(chunk))
        sums.append(pipeline.forward(chunk, flags=inbox.flags(), sums=held_out.sums))
        arrived += inbox.agree(sums[-1].flags)
        if any(command.request.interrupts for command in arrived):
            return Evaluation(values={}, commands=arrived)
    return Evaluation(values=_values(held_out, sums), commands=arrived)


def _masked(batch: Batch) -> Batch:
    """Return the batch with all tokens masked. It fills up the last round, which some pipeline schedules need full."""
    return replace(batch, loss_mask_BS=torch.zeros_like(batch.loss_mask_BS))


def _values(held_out: HeldOut, rounds: Sequence[Totals]) -> dict[str, float]:
    sums = _sums_by_place(held_out, rounds)
    values: dict[str, float] = {}
    for validation in held_out.sets:
        values |= _channel_values(held_out, validation.channel_name, sums[validation.channel_id])
    if held_out.needles is not None:
        by_depth = zip(DEPTHS, sums[held_out.needles.channel_id], strict=False)
        values |= {names.valid_needle_loss_of(depth): loss_sum / count for depth, (loss_sum, count) in by_depth}
    return values


def _channel_values(held_out: HeldOut, channel: str, by_place: Sequence[tuple[float, float]]) -> dict[str, float]:
    loss_sum, num_tokens = (sum(numbers) for numbers in zip(*by_place, strict=True))
    if not num_tokens:
        return {}
    values = {names.valid_lm_loss_of(channel): loss_sum / num_tokens}
    if num_bytes := held_out.num_bytes.get(channel):
        values[names.valid_bits_per_byte_of(channel)] = loss_sum / math.log(2) / num_bytes
    for start, (of_place, count) in zip(held_out.position_starts, by_place, strict=False):
        if count:
            values[names.valid_position_loss_of(channel, start)] = of_place / count
    return values


def _sums_by_place(held_out: HeldOut, rounds: Sequence[Totals]) -> list[list[tuple[float, float]]]:
    """Return loss sum and token count of each place, by channel."""
    loss_sums = map(math.fsum, zip(*(totals.loss_sums for totals in rounds), strict=True))
    counts = map(math.fsum, zip(*(totals.num_tokens for totals in rounds), strict=True))
    pairs, num_places = list(zip(loss_sums, counts, strict=True)), held_out.sums.num_places
    return [pairs[first : first + num_places] for first in range(0, len(pairs), num_places)]
