"""Held-out loss of every channel. A command that interrupts training ends it early."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from harness.data.batch import Batch
from harness.parallel.ranks import Ranks
from harness.run import metric_names as names
from harness.run.commands.command import Command
from harness.train.components.inbox import Inbox
from harness.train.components.mcore import Pipeline, Totals
from harness.train.components.open_data import HeldOut


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
    batches = chain.from_iterable(validation.micro_batches(*own) for validation in held_out.sets)
    sums: list[Totals] = []
    while chunk := list(islice(batches, num_microbatches)):
        chunk += [_masked(chunk[-1])] * (num_microbatches - len(chunk))
        sums.append(pipeline.forward(chunk, flags=inbox.flags()))
        arrived += inbox.agree(sums[-1].flags)
        if any(command.request.interrupts for command in arrived):
            return Evaluation(values={}, commands=arrived)
    return Evaluation(values=_values(held_out, sums), commands=arrived)


def _masked(batch: Batch) -> Batch:
    """Return the batch with all tokens masked. It fills up the last round, which some pipeline schedules need full."""
    return replace(batch, loss_mask_BS=torch.zeros_like(batch.loss_mask_BS))


def _values(held_out: HeldOut, sums: Sequence[Totals]) -> dict[str, float]:
    values: dict[str, float] = {}
    for validation in held_out.sets:
        channel, number = validation.channel_name, validation.channel_id
        loss_sum = sum(totals.loss_sums[number] for totals in sums)
        num_tokens = sum(totals.num_tokens[number] for totals in sums)
        if not num_tokens:
            continue
        values[names.valid_lm_loss_of(channel)] = loss_sum / num_tokens
        if num_bytes := held_out.num_bytes.get(channel):
            values[names.valid_bits_per_byte_of(channel)] = loss_sum / math.log(2) / num_bytes
    return values
