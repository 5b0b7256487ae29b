"""Files of a model's folder that others made, read without trust.

A folder of a Hugging Face cache holds links: `config.json -> ../../blobs/<hash>`. So a link may lead to a regular file
anywhere. Folders, pipes and devices are refused, before anything is opened that might wait or never end.
"""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import CheckpointError
from harness.run.files import read_regular, refusal

_LFS = b"version https://git-lfs"
POINTER_START = len(_LFS)
"""Bytes that tell a Git LFS pointer."""


def is_there(path: Path) -> bool:
    """Return whether a folder has an entry of that name, also if it is a link that leads nowhere."""
    return os.path.lexists(path)


def read_start(path: Path, num_bytes: int) -> bytes:
    """Return the first bytes of a regular file, through links.

    Raises:
        CheckpointError: There is none, or it cannot be read. Says where a link leads.
    """
    try:
        # That reads one byte more than it is told; to cut it off here would make a second copy of a large file.
        return read_regular(Path(os.path.realpath(path, strict=True)), num_bytes - 1)
    except OSError as error:
        raise CheckpointError(f"{path} {refusal(path, error)}.") from error


def require_content(path: Path, start: bytes) -> None:
    """Check that a file, of which the first bytes are given, is no pointer to its content.

    Raises:
        CheckpointError: It is one of Git LFS.
    """
    if start.startswith(_LFS):
        raise CheckpointError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`.")


def read_whole(path: Path, most_bytes: int) -> bytes:
    """Return the content of a regular file, through links.

    Raises:
        CheckpointError: There is none, it cannot be read, it is larger than that, or a Git LFS pointer.
    """
    content = read_start(path, most_bytes + 1)
    if len(content) > most_bytes:
        raise CheckpointError(f"{path} is larger than {most_bytes // 1024**2} MiB.")
    require_content(path, content)
    return content
