"""Holds a fast encoder against the reference now and then while it works: input may change its nature on the way."""

from __future__ import annotations

import numpy as np

from data_prep.tokenizers.encoders import EncodedDocuments, Encoder
from harness.errors import DataError

CALLS_BETWEEN_CHECKS = 16
CHARACTERS_PER_CHECK = 20_000


class SpotChecked:
    """An encoder that is checked on every sixteenth batch: about one character in 3,000 is encoded twice."""

    def __init__(self, encoder: Encoder, reference: Encoder) -> None:
        self.name = encoder.name
        self._encoder = encoder
        self._reference = reference
        self._num_calls = 0

    def encode(self, documents: list[str]) -> EncodedDocuments:
        """See `Encoder`.

        Raises:
            DataError: the fast encoder gives other ids than the reference.
        """
        encoded = self._encoder.encode(documents)
        if self._num_calls % CALLS_BETWEEN_CHECKS == 0:
            self._check(documents, encoded)
        self._num_calls += 1
        return encoded

    def _check(self, documents: list[str], encoded: EncodedDocuments) -> None:
        # Another place of the batch every time; a long document is passed over for the sake of speed.
        first = self._num_calls * 31 % max(1, len(documents))
        short = [n for n in range(first, len(documents)) if len(documents[n]) <= CHARACTERS_PER_CHECK]
        if not short:
            return
        number = short[0]
        begin = int(encoded.lengths[:number].sum())
        found = encoded.ids[begin : begin + int(encoded.lengths[number])]
        expected = self._reference.encode([documents[number]]).ids
        if not np.array_equal(found, expected):
            raise DataError(
                f"{self.name} encodes a document differently from the tokenizer's own library: "
                f"{documents[number][:60]!r}. It agreed on the sample taken before. What was written since cannot be "
                "trusted: delete the channel folder and run the same command with --encoder reference."
            )
