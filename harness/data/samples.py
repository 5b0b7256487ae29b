"""Which sample is number k of a run: the blend and the orders of its channels put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xxhash

from harness.data.blend import make_blend
from harness.data.channels import Channel
from harness.data.cursor import Positions
from harness.data.documents import DocumentSpan
from harness.data.order import ChannelOrder, SampleAddress
from harness.data.packing import PartOpener
from harness.data.recipe import Recipe
from harness.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class LocatedSamples:
    """Addresses of n samples of the run as arrays [n]: channels and parts by their numbers."""

    channels: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int64]
    epochs: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.channels)

    def __getitem__(self, chosen: slice | npt.NDArray[np.integer]) -> LocatedSamples:
        """Some of the samples."""
        return LocatedSamples(
            channels=self.channels[chosen],
            parts=self.parts[chosen],
            epochs=self.epochs[chosen],
            indices=self.indices[chosen],
        )


class SampleOrder:
    """The sample order of a run: a pure function of recipe and parts. Safe to use from several threads."""

    def __init__(self, channels: Sequence[Channel], recipe: Recipe, open_part: PartOpener) -> None:
        """Count the samples of the channels that the recipe uses.

        Raises:
            DataError: A channel is missing, damaged, or too small for one sample.
        """
        by_name = {channel.name: channel for channel in channels}
        missing = [name for name in recipe.shares if name not in by_name]
        if missing:
            raise DataError(
                f"the blend uses channel {missing[0]}, which is not open; open "
                f"channels: {', '.join(by_name) or 'none'}. List it under `data.channels`."
            )
        self.recipe = recipe
        self.blend = make_blend(recipe.shares)
        self.channel_names = self.blend.names
        self._orders = [ChannelOrder(by_name[name], recipe, open_part) for name in self.channel_names]
        self._digests = [order.part_digests() for order in self._orders]

    def locate(self, positions: Positions) -> LocatedSamples:
        """Addresses of the samples at these positions of the run, [n].

        Raises:
            DataError: A part whose turn has come is damaged.
        """
        channels, within = self.blend.channels_of(positions)
        parts, epochs, indices = (np.empty_like(positions) for _ in range(3))
        for channel in np.unique(channels).tolist():
            chosen = channels == channel
            found = self._orders[channel].locate(within[chosen])
            parts[chosen], epochs[chosen], indices[chosen] = found.parts, found.epochs, found.indices
        return LocatedSamples(channels=channels, parts=parts, epochs=epochs, indices=indices)

    def batch_hash(self, samples: LocatedSamples) -> int:
        """XXH3 (64 bits) of the identities in order: of each sample the digest of its part, the epoch and the index."""
        identities = np.empty((len(samples), 3), dtype="<u8")
        for channel in np.unique(samples.channels).tolist():
            chosen = samples.channels == channel
            identities[chosen, 0] = self._digests[channel][samples.parts[chosen]]
        identities[:, 1] = samples.epochs
        identities[:, 2] = samples.indices
        return int(xxhash.xxh3_64_intdigest(identities.tobytes()))

    def addresses(self, samples: LocatedSamples) -> list[SampleAddress]:
        """The same addresses by name."""
        rows = zip(samples.channels, samples.parts, samples.epochs, samples.indices, strict=True)
        return [
            SampleAddress(
                channel=self.channel_names[channel],
                part=self._orders[channel].channel.parts[part].name,
                epoch=int(epoch),
                index=int(index),
            )
            for channel, part, epoch, index in rows
        ]

    def documents_of(self, samples: LocatedSamples) -> list[list[DocumentSpan]]:
        """For each sample the pieces of documents it is made of, its last label included."""
        rows = zip(samples.channels, samples.parts, samples.epochs, samples.indices, strict=True)
        return [
            self._orders[channel].documents_of(int(part), int(epoch), int(index))
            for channel, part, epoch, index in rows
        ]

    def read(self, samples: LocatedSamples, out: npt.NDArray[np.int64]) -> list[list[int]]:
        """Copy the tokens of n samples into `out` [n, seq_length + 1].

        Returns:
            For each sample, how many of its tokens each document gave.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        rows = zip(
            samples.channels.tolist(),
            samples.parts.tolist(),
            samples.epochs.tolist(),
            samples.indices.tolist(),
            out,
            strict=True,
        )
        return [self._orders[channel].read(part, epoch, index, row) for channel, part, epoch, index, row in rows]

    def epochs(self, num_positions: int) -> dict[str, float]:
        """How often each channel has been passed through after that many positions, skipped ones included."""
        counts = self.blend.counts(num_positions)
        return {
            name: count / order.num_samples
            for name, count, order in zip(self.channel_names, counts, self._orders, strict=True)
        }
