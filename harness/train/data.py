"""Opens the data of a run: the training stream, the held-out samples, and what identifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config.schema import Config
from harness.data.arrivals import Arrivals
from harness.data.channels import Channel, open_channel
from harness.data.cursor import Cursor
from harness.data.fingerprint import data_fingerprint
from harness.data.recipe import Recipe, recipe_for
from harness.data.stream import BatchShape, TrainingStream
from harness.data.tokenizer import Tokenizer, open_tokenizer
from harness.data.validation import open_validation
from harness.errors import DataError
from harness.parallel.ranks import Ranks
from harness.plan.plan import Plan
from harness.train.evaluate import HeldOut, count_bytes


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run, opened on one rank."""

    stream: TrainingStream
    held_out: HeldOut | None
    """None where nothing is evaluated or held out."""
    recipe: Recipe
    """The numbers behind the order of the samples."""
    identity: dict[str, Any]
    """Model and tokenizer, as plain JSON values."""
    arrivals: Arrivals | None
    """Looks out for new parts, on the writer."""

    def fingerprint(self, cursor: Cursor) -> dict[str, Any]:
        """What the weights at a cursor depend on besides the seed: model, data and tokenizer, as plain JSON values."""
        return self.identity | {"data": data_fingerprint(self.stream.channels, self.recipe, cursor.history)}

    def close(self) -> None:
        """Ends the threads that read ahead and look out."""
        self.stream.close()
        if self.arrivals is not None:
            self.arrivals.close()


def open_data(config: Config, plan: Plan, ranks: Ranks, *, pin_memory: bool, num_parts: Mapping[str, int]) -> RunData:
    """Opens the channels of all phases.

    Args:
        config: The configuration.
        plan: Its plan.
        ranks: This process's place.
        pin_memory: Whether batches go to a GPU.
        num_parts: How many parts of each channel the run has used so far. Parts finished since then are left out here,
            and adopted later; of channels that are not named all parts are used.

    Raises:
        DataError: A channel or the tokenizer is missing, damaged, or does not fit the configuration.
    """
    phase = plan.phases[0]
    recipe = recipe_for(config, plan.phases)
    tokenizer = open_tokenizer(config.data.tokenizer) if config.data.tokenizer else None
    if tokenizer is not None and tokenizer.vocab_size > config.model.vocab_size:
        raise DataError(
            f"{config.data.tokenizer} has {tokenizer.vocab_size} token ids, but model.vocab_size is "
            f"{config.model.vocab_size}. Set model.vocab_size to {tokenizer.vocab_size} or more."
        )
    channels = [open_channel(name, config.data.channels[name], num_parts.get(name)) for name in recipe.channel_names]
    stream = TrainingStream(
        channels,
        recipe,
        BatchShape(
            global_batch_size=phase.global_batch_size,
            micro_batch_size=config.parallel.micro_batch_size,
            dp_rank=ranks.dp.rank,
            dp_size=ranks.dp.size,
            reads_tokens=ranks.reads_tokens,
            pin_memory=pin_memory,
        ),
        num_prefetch_batches=config.data.num_prefetch_batches,
    )
    held_out = _open_held_out(config, channels, recipe, tokenizer) if config.evaluation.every_steps else None
    return RunData(
        stream=stream,
        held_out=held_out,
        recipe=recipe,
        identity=_identity(config, tokenizer),
        arrivals=_look_out(config, channels) if ranks.is_writer and config.data.adopt_parts else None,
    )


def _look_out(config: Config, channels: Sequence[Channel]) -> Arrivals:
    return Arrivals(
        {channel.name: channel for channel in channels},
        {channel.name: config.data.channels[channel.name].path for channel in channels},
        vocab_size=config.model.vocab_size,
        every_s=config.data.adopt_every_s,
    )


def _open_held_out(
    config: Config, channels: Sequence[Channel], recipe: Recipe, tokenizer: Tokenizer | None
) -> HeldOut | None:
    wanted = config.evaluation.num_samples_per_channel
    opened = [open_validation(channel, number, recipe, wanted) for number, channel in enumerate(channels)]
    sets = tuple(held_out for held_out in opened if held_out is not None)
    if not sets:
        return None
    table = None if tokenizer is None else tokenizer.bytes_per_token()
    num_bytes = {} if table is None else {held_out.channel_name: count_bytes(held_out, table) for held_out in sets}
    return HeldOut(sets=sets, num_bytes=num_bytes)


def _identity(config: Config, tokenizer: Tokenizer | None) -> dict[str, Any]:
    return {
        "model": config.model.model_dump(mode="json"),
        "tokenizer": None
        if tokenizer is None
        else {"file": tokenizer.path.name, "xxh3": tokenizer.hash, "vocab_size": tokenizer.vocab_size},
    }
