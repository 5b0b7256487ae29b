"""A part: one `.bin/.idx` pair, and the checks that need no more than its size and its header."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.channels.index_file import IndexHeader, read_index_header
from harness.errors import DataError

MOST_BYTES = 1 << 46
"""Size of a `.bin`: 64 TiB, four times what a file of ext4 may have. Sums over 100,000 parts fit an int64."""
_FILES_AT_ONCE = 16
"""Files that are opened at the same time. A shared file system takes longest to find a file."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One `.bin/.idx` pair of a channel, known by its numbers; its index is read when its turn comes."""

    prefix: Path
    """The path without `.bin` and `.idx`."""
    name: str
    """Name within the channel: the last piece of `prefix`. Seeds the shuffle, so moving a folder changes nothing."""
    num_tokens: int
    num_documents: int
    bin_bytes: int
    xxh3: str | None
    """XXH3 of the `.bin`, 64 bits as 16 hexadecimal digits; unknown for a bare prefix."""

    @property
    def bin_path(self) -> Path:
        """The tokens."""
        return beside(self.prefix, ".bin")

    @property
    def idx_path(self) -> Path:
        """The index."""
        return beside(self.prefix, ".idx")

    @property
    def provenance_path(self) -> Path:
        """The file that says where the documents came from; earlier versions wrote none."""
        return beside(self.prefix, ".provenance")


def beside(prefix: Path, ending: str) -> Path:
    """Return a file of a pair by its prefix, which may be a folder such as `.` that has no name."""
    return prefix.parent / (prefix.name + ending)


def file_bytes(path: Path) -> int:
    """Return the size of a regular file, by one stat call.

    Raises:
        DataError: There is no such file, or it cannot be looked at, or it is something else than a file.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DataError(
            f"cannot find {path}: {error.strerror or error}. Copy the file there, or correct the path."
        ) from error
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is not a regular file. Put the part's file there, or correct the path.")
    return found.st_size


def check_files(part: Part) -> None:
    """Check by two stat calls that both files are there and the `.bin` has its size.

    Raises:
        DataError: A file is missing, or the `.bin` has another size.
    """
    file_bytes(part.idx_path)
    found = file_bytes(part.bin_path)
    if found != part.bin_bytes:
        raise DataError(
            f"{part.bin_path} is truncated or altered: expected {part.bin_bytes} bytes, found {found}. "
            "Copy or make the part again."
        )


def check_end(part: Part, header: IndexHeader) -> None:
    """Check that the last sequence of an index ends where the `.bin` does.

    Raises:
        DataError: It ends elsewhere.
    """
    if header.bin_bytes != part.bin_bytes:
        raise DataError(
            f"{part.bin_path} is not what its index says: the sequences in {part.idx_path.name} make "
            f"{header.bin_bytes} bytes, the file has {part.bin_bytes}. Copy or make the part again."
        )


def check_headers(channel: str, parts: Sequence[Part], vocab_size: int) -> None:
    """Check the header of every part's index: a late part shall not stop a run after days.

    Raises:
        DataError: A part does not fit. Names the first one.
    """
    if problems := header_problems(parts, vocab_size):
        raise DataError(f"channel {channel}: {problems[0]}")


def header_problems(parts: Sequence[Part], vocab_size: int) -> list[str]:
    """Return what `check_header` finds wrong with parts, in their order. Reads several headers at once."""

    def problem(part: Part) -> str | None:
        try:
            check_header(part, vocab_size)
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return [found for found in pool.map(problem, parts) if found is not None]


def check_width(channel: str, parts: Iterable[Part], vocab_size: int) -> None:
    """Check by arithmetic alone that the tokens of parts are wide enough: a late part shall not stop a run after days.

    Raises:
        DataError: A `.bin` is no whole number of bytes for each token, or too few for the vocabulary.
    """
    for part in parts:
        width, rest = divmod(part.bin_bytes, max(1, part.num_tokens))
        if part.num_tokens and (rest or 256**width < vocab_size):
            raise DataError(
                f"channel {channel}: {part.bin_path} has {part.bin_bytes} bytes for {part.num_tokens} tokens: no whole "
                f"number for each, or too few for the {vocab_size} ids of the vocabulary (`model.vocab_size`). The "
                "data was made with another tokenizer, or the part is damaged: make it again."
            )


def check_header(part: Part, vocab_size: int) -> IndexHeader:
    """Compare the header of the part's `.idx` with its `.bin`, its line in `parts.jsonl` and the vocabulary.

    Raises:
        DataError: They disagree.
    """
    check_files(part)
    header = read_index_header(part.idx_path)
    kind = header.token_type
    if kind.num_ids < vocab_size:  # made with another tokenizer, or the ids wrapped around
        raise DataError(
            f"{part.idx_path} holds tokens as {kind.name}, which ends at id {kind.num_ids - 1}, but the vocabulary "
            f"has {vocab_size} ids (`model.vocab_size`). The data was made with another tokenizer: tokenize it again, "
            "or correct the vocabulary size."
        )
    expected = part.num_tokens * kind.num_bytes
    if expected != part.bin_bytes:
        raise DataError(
            f"{part.bin_path}: {part.num_tokens} tokens of {kind.name} make {expected} bytes, "
            f"found {part.bin_bytes}. {part.idx_path.name} and the .bin are not from the same part: make it again."
        )
    check_end(part, header)
    if header.num_documents != part.num_documents:
        raise DataError(
            f"{part.idx_path} says {header.num_documents} documents, the channel says {part.num_documents}. "
            "The index is not from the same part: make the part again."
        )
    return header
