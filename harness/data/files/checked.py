"""The check of a part: both files are read once, whole, and compared with what is known of them.

Nothing is mapped and nothing is kept: a part of any size needs a few blocks of memory, and of a file that shrinks
meanwhile less is read. Tokens that a rank reads later come through its own map of the same files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import xxhash

from harness.channels.parts import Part, check_header
from harness.channels.regular_file import open_to_read
from harness.data.files.document_table import document_table, read_arrays
from harness.errors import DataError
from harness.run.checked_parts import CheckedFile, CheckedPart, FileState

_BLOCK_BYTES = 1 << 24
_TRIES = 3
"""Times that a file is read again because it changed meanwhile."""


class UsedPart(NamedTuple):
    """A part that a run reads, with the name of its channel."""

    channel: str
    part: Part

    @property
    def key(self) -> tuple[str, str]:
        """Return what names the part in a run, as `CheckedPart.key` does."""
        return self.channel, self.part.name


def held_out_name(channel: str) -> str:
    """Return the name under which the held-out documents of a channel are known, if it has a folder for them."""
    return f"{channel} (validation)"


class CheckStoppedError(Exception):
    """The check was given up because the run ends."""


def states_of(part: Part) -> tuple[FileState | None, FileState | None]:
    """Return what tells without reading whether `.bin` and `.idx` have changed; None for one that cannot be found."""
    return _state_of(part.bin_path), _state_of(part.idx_path)


def check_part(
    used: UsedPart,
    vocab_size: int,
    *,
    before: CheckedPart | None = None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> CheckedPart:
    """Read both files of a part, and compare them with its line in the list of parts.

    Args:
        used: The part. One without a line is compared with what the run has read before.
        vocab_size: Number of ids that its tokens must be able to hold.
        before: The check of the part earlier in this run, if there was one.
        is_stopped: Asked between blocks.

    Raises:
        DataError: A file is missing, unreadable or damaged, or another one than before.
        CheckStoppedError: `is_stopped` said so.
    """
    channel, part = used
    try:
        header = check_header(part, vocab_size)
        arrays = read_arrays(part.idx_path, header)
        is_listed = part.xxh3 is not None
        document_table(part.idx_path, arrays, header.token_type.num_bytes, part.bin_bytes, is_one_each=is_listed)
        index = _hashed(part.idx_path, is_stopped)
        tokens = _hashed(part.bin_path, is_stopped)
    except OSError as error:
        raise DataError(
            f"channel {channel}: cannot read {error.filename or part.prefix}: {error.strerror or error}. "
            "Look at the file system, and start again."
        ) from error
    except DataError as error:
        raise DataError(f"channel {channel}: {error}") from error
    if part.xxh3 is not None and tokens.xxh3 != part.xxh3:
        said = f"its line in parts.jsonl says {part.xxh3}. Copy or make the part again"
        raise _altered(channel, part.bin_path, tokens, said)
    if before is not None:
        for path, found, known in ((part.bin_path, tokens, before.bin), (part.idx_path, index, before.idx)):
            if found.xxh3 != known.xxh3 and not (part.xxh3 and before.bin.xxh3 != part.xxh3):
                said = f"it was {known.xxh3} when this run first read it. Put the file back as it was"
                raise _altered(channel, path, found, said)
    return CheckedPart(channel=channel, part=part.name, bin=tokens, idx=index)


def _altered(channel: str, path: Path, found: CheckedFile, said: str) -> DataError:
    return DataError(
        f"channel {channel}: {path} has the hash {found.xxh3}, {said}. Read were {found.state.num_bytes} bytes; "
        "`harness data verify` looks at a whole channel."
    )


def _state(found: os.stat_result) -> FileState:
    return FileState(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino % 2**63)


def _state_of(path: Path) -> FileState | None:
    try:
        return _state(path.stat())
    except OSError:
        return None


def _hashed(path: Path, is_stopped: Callable[[], bool]) -> CheckedFile:
    """Return the hash of a file that did not change while it was read, and its state.

    Raises:
        OSError: From the disk.
        DataError: It changed every time.
        CheckStoppedError: `is_stopped` said so.
    """
    for _ in range(_TRIES):
        with open_to_read(path) as file:
            before = _state(os.fstat(file.fileno()))
            digest = xxhash.xxh3_64()
            block = bytearray(min(_BLOCK_BYTES, before.num_bytes + 1))
            while (size := _filled(file, block)) and not is_stopped():
                digest.update(memoryview(block)[:size])
            if is_stopped():
                raise CheckStoppedError
            if _state(os.fstat(file.fileno())) == before == _state_of(path):
                return CheckedFile(before, digest.hexdigest())
    raise DataError(f"{path} changes while it is read. Let whatever writes it finish, then start again.")


def _filled(file: BinaryIO, block: bytearray) -> int:
    return file.readinto(block)  # type: ignore[attr-defined, no-any-return]  # every binary file has it
