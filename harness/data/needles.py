"""Needles in held-out text: what a model remembers of a sample, by how far back it stands.

A needle is `KEY_TOKENS` tokens and `VALUE_TOKENS` tokens behind them, all different and drawn from the sample's own. It
is put into the text at a depth, and again at the end; only the second value counts. A model that finds the first needle
loses nothing there, any other one as much as the text has entropy. (The usual probe asks in words, which base models do
not follow: Kamradt, Needle In A Haystack, 2023. RULER, arXiv:2404.06654, has the same with keys and values.)

B: samples in the micro-batch, S: seq_length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from harness.data.batch import Batch, collate
from harness.data.order.recipe import Recipe
from harness.data.validation import ValidationSet, dealt

DEPTHS = tuple(range(0, 100, 10))
"""Tokens in front of the first needle, in percent of the text that it is put into."""
KEY_TOKENS = VALUE_TOKENS = 8
"""Twice both are half of the shortest sample that is allowed (`harness.limits.LEAST_NEEDLE_TOKENS`)."""


@dataclass(frozen=True, eq=False)
class NeedleSet:
    """Samples with needles: the same text and the same needle at every depth, for each of some texts."""

    haystacks: Sequence[ValidationSet]
    """Sets whose samples are the text; they take turns."""
    channel_id: int
    """Number of a channel of its own, of which depths are the places."""
    num_per_depth: int
    recipe: Recipe

    @property
    def num_samples(self) -> int:
        """Samples in the set."""
        return self.num_per_depth * len(DEPTHS)

    def micro_batches(self, dp_rank: int, dp_size: int, micro_batch_size: int) -> Iterator[Batch]:
        """Yield this rank's micro-batches, as `ValidationSet.micro_batches` does.

        Raises:
            DataError: A token id lies outside the vocabulary.
        """
        for numbers in dealt(self.num_samples, dp_rank, dp_size, micro_batch_size):
            yield self._micro_batch(numbers, micro_batch_size)

    def _micro_batch(self, numbers: range, micro_batch_size: int) -> Batch:
        rows = np.zeros((micro_batch_size, self.recipe.seq_length + 1), dtype=np.int64)
        places = torch.zeros(micro_batch_size, self.recipe.seq_length, dtype=torch.int64)
        for row, number in enumerate(numbers):
            text, places[row] = divmod(number, len(DEPTHS))
            rows[row] = with_needle(self._text(text), text, DEPTHS[number % len(DEPTHS)])
        whole = [[rows.shape[1]]] * len(numbers) + [[]] * (micro_batch_size - len(numbers))
        channel = np.full(micro_batch_size, self.channel_id, dtype=np.int64)
        borders = self.recipe.reset_at_document_borders
        batch = collate(rows, whole, channel, reset_at_document_borders=borders)
        batch.loss_mask_BS[:, :-VALUE_TOKENS] = 0
        return replace(batch, places_BS=places)

    def _text(self, number: int) -> npt.NDArray[np.int64]:
        """Return the tokens of a text, [S + 1]; short ones begin again."""
        turn, haystack = divmod(number, len(self.haystacks))
        tokens = self.haystacks[haystack].tokens_of(turn % self.haystacks[haystack].num_samples)
        return np.resize(tokens, self.recipe.seq_length + 1)


def with_needle(text: npt.NDArray[np.int64], seed: int, depth: int) -> npt.NDArray[np.int64]:
    """Return a text with a needle at a depth (percent) and at its end; as many tokens as were given."""
    needle = _needle(text, seed)
    around = text[: len(text) - 2 * len(needle)]
    place = len(around) * depth // 100
    return np.concatenate((around[:place], needle, around[place:], needle))


def _needle(text: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Draw tokens of the text: each once, if it has as many different ones."""
    ids = np.unique(text)
    size = KEY_TOKENS + VALUE_TOKENS
    drawn: npt.NDArray[np.int64] = np.random.RandomState(seed).choice(ids, size, replace=len(ids) < size)
    return drawn
