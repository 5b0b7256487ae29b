"""Opening a part with Megatron-Core, and reading tokens from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from harness.channels.parts import Part, check_header
from harness.data.files.document_table import DocumentSpan, document_table, read_arrays
from harness.errors import DataError


class MappedPart:
    """A part whose files are mapped into memory.

    The files are checked first, because Megatron would only assert, or read beyond the end. Megatron unmaps the files
    when the dataset is collected, even while views of them exist. So this object returns copies only.
    """

    def __init__(self, part: Part, vocab_size: int) -> None:
        """Map the files.

        Raises:
            DataError: The files do not fit each other, the channel or the vocabulary.
        """
        header = check_header(part, vocab_size)
        if part.bin_bytes == 0:
            raise DataError(f"{part.bin_path} is empty: its documents have no tokens. Make the part again.")
        # All of the index is checked before Megatron reads it.
        arrays = read_arrays(part.idx_path, header)
        self._token_bytes = header.token_type.num_bytes
        table = document_table(
            part.idx_path, arrays, self._token_bytes, part.bin_bytes, is_one_each=part.xxh3 is not None
        )
        try:
            self._dataset = IndexedDataset(str(part.prefix), multimodal=False, mmap=True)
        except OSError as error:
            raise DataError(f"cannot map {part.prefix}.bin/.idx: {error.strerror or error}. Try again.") from error
        except (AssertionError, ValueError, KeyError) as error:  # the file has changed since it was looked at
            raise DataError(
                f"{part.idx_path} is damaged, or changed while it was opened: Megatron refuses it "
                f"({str(error) or type(error).__name__}). Copy or make the part again."
            ) from error
        self.part = part
        self._lengths = table.lengths
        self._byte_offsets = table.byte_offsets
        self._read_bytes = self._dataset.bin_reader.read
        self._token_type = self._dataset.index.dtype

    def lengths_of(self, documents: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
        """Return the tokens of each of these documents, [len(documents)]."""
        lengths: npt.NDArray[np.integer] = self._lengths[documents]  # a copy, as the index is an array
        return lengths

    def read(self, spans: Sequence[DocumentSpan], out: npt.NDArray[np.int64]) -> None:
        """Copy the tokens of pieces of documents into `out`, end to end."""
        byte_offsets = self._byte_offsets[[span.document for span in spans]].tolist()
        begin = 0
        for (_, first_token, num_tokens), byte_offset in zip(spans, byte_offsets, strict=True):
            place = byte_offset + first_token * self._token_bytes
            out[begin : begin + num_tokens] = self._read_bytes(self._token_type, num_tokens, place)
            begin += num_tokens
