"""Opens the files of finished parts for looking at them, without torch or Megatron-Core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.channels.channels import PARTS_FILE, has_list, open_channel
from harness.channels.index_file import IndexHeader, read_index_header
from harness.channels.parts import Part, check_header
from harness.config.schema import ChannelConfig
from harness.data.files.document_table import DocumentSpan, DocumentTable, document_table, read_arrays
from harness.errors import DataError


@dataclass(frozen=True, eq=False)
class OpenPart:
    """A part whose files are mapped into memory and fit each other: that of `harness.data.order.packing` too."""

    part: Part
    header: IndexHeader
    table: DocumentTable
    tokens: NDArray[np.integer]
    """All tokens of the part, a view of the `.bin`."""

    def document(self, number: int) -> NDArray[np.integer]:
        """Return the tokens of a document, numbered from 0 within the part."""
        begin = int(self.table.byte_offsets[number]) // self.header.token_type.num_bytes
        return self.tokens[begin : begin + int(self.table.lengths[number])]

    def lengths_of(self, documents: NDArray[np.integer]) -> NDArray[np.integer]:
        """Return the tokens of each of these documents, [len(documents)]."""
        lengths: NDArray[np.integer] = self.table.lengths[documents]  # a copy, as the index is an array
        return lengths

    def read(self, spans: Sequence[DocumentSpan], out: NDArray[np.int64]) -> None:
        """Copy the tokens of pieces of documents into `out`, end to end."""
        begin = 0
        for document, first_token, num_tokens in spans:
            out[begin : begin + num_tokens] = self.document(document)[first_token : first_token + num_tokens]
            begin += num_tokens


def parts_of(path: Path) -> tuple[Part, ...]:
    """List the parts of a channel folder, or the one part of a bare `.bin/.idx` prefix.

    Raises:
        DataError: There is none, or a file is missing or has another size than its line says.
    """
    return open_channel(path.name, ChannelConfig(path=path)).parts


def channel_folders(paths: Sequence[Path]) -> list[Path]:
    """Return the channel folders at these paths; a folder that holds channel folders is replaced by them.

    Raises:
        DataError: A folder is no channel and holds none, or cannot be looked into, or holds parts that no list names.
    """
    try:
        return [folder for path in paths for folder in _channels_at(path)]
    except OSError as error:
        raise DataError(f"cannot look for channels at {error.filename}: {error.strerror or error}.") from error


def _channels_at(path: Path) -> list[Path]:
    if has_list(path) or not path.is_dir():
        return [path]
    if inner := sorted(folder for folder in path.iterdir() if has_list(folder)):
        _require_lists(path, inner)
        return inner
    raise DataError(
        f"{path} is not a channel folder and contains none: there is no {PARTS_FILE} in it or one level below. Give a "
        "channel folder, a folder of channels, or the prefix of a .bin/.idx pair."
    )


def _require_lists(path: Path, channels: Sequence[Path]) -> None:
    """Refuse a folder of channels of which one has lost its list: it would be passed over in silence."""
    lost = sorted(folder for folder in path.iterdir() if folder not in channels and any(folder.glob("*.idx")))
    if lost:
        raise DataError(
            f"{lost[0]} holds parts, but no {PARTS_FILE}, which makes it a channel. Restore the list, or give the "
            f"channels that you mean by name instead of {path}."
        )


def open_part(part: Part, vocab_size: int = 1) -> OpenPart:
    """Map the files of a part and check all its structure.

    Raises:
        DataError: The files do not fit each other or the vocabulary.
    """
    header = check_header(part, vocab_size)
    arrays = read_arrays(part.idx_path, header)
    table = document_table(part.idx_path, arrays, header.token_type.num_bytes, part.bin_bytes)
    dtype = np.dtype(header.token_type.name).newbyteorder("<")
    # An empty file cannot be mapped.
    empty = np.zeros(0, dtype=dtype)
    tokens = np.memmap(part.bin_path, dtype=dtype, mode="r") if part.bin_bytes else empty
    return OpenPart(part, header, table, tokens)


def dtype_of(part: Part) -> str:
    """Number format of the part's tokens."""
    return read_index_header(part.idx_path).token_type.name
