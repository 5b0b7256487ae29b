"""Finds the fastest encoder that gives exactly the reference's ids on a sample of the input itself.

A fast library that is missing, cannot load the tokenizer or differs in one id is not used, and the reason is printed.
One that is used is compared with the reference now and then while it works: the input may change along the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from data_prep.tokenizers.encoders import FAST_ENCODERS, EncodedDocuments, Encoder, ReferenceEncoder, candidates
from data_prep.tokenizers.fast_trial import first_line, require_fit
from data_prep.tokenizers.settled import SettledEncoder
from harness.errors import DataError, UsageError
from harness.tokenizers.native import is_panic
from harness.tokenizers.tokenizer import Tokenizer

AUTO = "auto"
REFERENCE = "reference"
SAMPLE_CHARACTERS = 1_000_000
MAX_PROBED_SYMBOLS = 200
CALLS_BETWEEN_CHECKS = 16
CHARACTERS_PER_CHECK = 20_000
PROBES = (
    "",
    " ",
    "\n" * 300,
    " " * 300,
    " a  b   c\t\td\r\n\r\n  e\n \n",
    "a" * 5000,
    "1234567890 3.14159 1e-5 ２０２６年",
    "don't DON'T I'LL we've ‘quoted’ “text”…",
    "春眠不觉晓，处处闻啼鸟。\u3000夜来风雨声，花落知多少。",
    "𠀀龘 🦜👩\u200d👩\u200d👧\ufe0f e\u0301 é ﬁ Ω ½ \u200b\u00a0\x00\x07",
    "def f(x):\n\treturn {'a': [x ** 2]}  # ▁ <0x41>\n",
)
"""Texts on which tokenizers have been seen to differ; they are tried for every corpus."""


@dataclass(frozen=True)
class ChosenEncoder:
    """An encoder, and the reasons for the choice."""

    encoder: Encoder
    notes: tuple[str, ...]


def choose_encoder(tokenizer: Tokenizer, sample: Sequence[str], wanted: str = AUTO) -> ChosenEncoder:
    """Return the first candidate that agrees with the reference on the sample and on the probes, else the reference.

    `wanted` is `auto`, `reference`, or the name of a fast encoder; the sample consists of documents of the input.

    Raises:
        UsageError: The encoder that is wanted is not installed.
    """
    reference = ReferenceEncoder(tokenizer)
    if wanted == REFERENCE:
        return ChosenEncoder(reference, ())
    probes = [*PROBES, *_documents_with_symbols(tokenizer, sample)]
    documents = [*sample, *probes]
    expected = reference.encode(documents)
    notes: list[str] = []
    for name in candidates(tokenizer) if wanted == AUTO else (wanted,):
        try:
            require_fit(FAST_ENCODERS[name], tokenizer, probes)
            encoder = SettledEncoder(FAST_ENCODERS[name](tokenizer), reference)
            found = encoder.encode(documents)
        except ImportError as error:
            if wanted != AUTO:
                raise UsageError(
                    f"--encoder {name} needs the Python package {name}, which is not installed ({error}). Install the "
                    "project with its `data-fast` extra, or leave the option out."
                ) from error
            notes.append(f"{name} is not used: the package is not installed (extra `data-fast`)")
            continue
        except BaseException as error:  # these libraries raise plain exceptions, and panic
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            notes.append(f"{name} is not used: it cannot read this tokenizer ({first_line(error)})")
            continue
        difference = _difference(documents, expected, found)
        if difference is None:
            characters = sum(map(len, sample))
            notes.append(
                f"encoder {name}: gave the reference's ids on {len(sample):,} documents "
                f"({characters:,} characters) of this input"
            )
            return ChosenEncoder(SpotChecked(encoder, reference), tuple(notes))
        notes.append(f"{name} is not used: it differs from the reference in {difference}")
    return ChosenEncoder(reference, (*notes, "encoder: the tokenizer's own library"))


def _documents_with_symbols(tokenizer: Tokenizer, sample: Sequence[str]) -> Iterator[str]:
    """Return documents with control symbols spelt out inside ordinary text, where they must stay text."""
    surroundings = sample[0][:100] if sample else "text"
    for symbol in islice(tokenizer.control_symbols(), MAX_PROBED_SYMBOLS):
        yield f"{surroundings}{symbol}{symbol} {surroundings}"


def _difference(documents: Sequence[str], expected: EncodedDocuments, found: EncodedDocuments) -> str | None:
    """Describe the first difference between two encodings of the same documents; None if they are equal."""
    if len(expected.lengths) != len(found.lengths):
        return f"the number of documents: {len(found.lengths)} instead of {len(expected.lengths)}"
    if np.array_equal(expected.lengths, found.lengths) and np.array_equal(expected.ids, found.ids):
        return None
    common = min(len(expected.ids), len(found.ids))
    unequal = np.flatnonzero(expected.ids[:common] != found.ids[:common])
    first = int(unequal[0]) if len(unequal) else common
    ends = np.cumsum(expected.lengths)
    number = min(int(np.searchsorted(ends, first, side="right")), len(documents) - 1)
    return f"document {number + 1} of the sample, which begins {documents[number][:40]!r}"


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
            DataError: The fast encoder gives other ids than the reference.
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
