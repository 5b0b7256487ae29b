"""Checks what is in the shards of a checkpoint before torch reads it: limits of all, an allow-list for objects."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from typing import Any

import torch

from harness.checkpoint.archives import require_bounded
from harness.errors import CheckpointError
from harness.run.checkpoints.metadata_pickle import UnpicklingError

TakeObject = Callable[[Any, Any, io.BytesIO], None]
"""A method of torch's planner, which runs whatever the pickle of an object names."""

TakeSlice = Callable[[Any, Any, Any], Any]
"""A method of torch's reader, which gives a part of a file to torch's unpickler."""

_ADVICE = "Nothing of it was run. Do not use this checkpoint before you know who wrote it"


class _Part(io.RawIOBase):
    """A part of a file that is open. Torch's own does not find its end."""

    def __init__(self, file: Any, offset: int, length: int) -> None:  # noqa: ANN401 (torch's stream)
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def seekable(self) -> bool:
        """Return that it is."""
        return True

    def readable(self) -> bool:
        """Return that it is."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte in the part."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place in the part."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, "before the begin")
        self._at = start + offset
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, none at the end."""
        left = max(0, self._length - self._at)
        self._file.seek(self._offset + self._at)
        content: bytes = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content


def guarded(take_object: TakeObject) -> TakeObject:
    """Return the method behind torch's allow-list, to which megatron-core has added its own harmless classes.

    Megatron's planner is one of torch's. From 0.19 on a plain one of torch's reads what was in `common.pt` before.
    """

    def load_object(planner: Any, item: Any, content: io.BytesIO) -> None:  # noqa: ANN401 (torch's types)
        """Take an object out of a shard.

        Raises:
            CheckpointError: It names something that is not part of a checkpoint.
        """
        try:
            torch.load(content, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            name, cause = item.dest_index.fqn, str(error).splitlines()[0][:200]
            raise CheckpointError(
                f"the object {name!r} in a shard is not part of a checkpoint: {cause}. {_ADVICE}"
            ) from None
        content.seek(0)
        take_object(planner, item, content)

    return load_object


def guarded_slice(slice_file: TakeSlice) -> TakeSlice:
    """Return the method behind the limits of `harness.checkpoint.archives`."""

    def take_slice(reader: Any, file: Any, place: Any) -> Any:  # noqa: ANN401 (torch's types)
        """Return the part of a file that holds one tensor or object.

        Raises:
            CheckpointError: It is not what `torch.save` writes.
        """
        try:
            require_bounded(_Part(file, place.offset, place.length))
        except CheckpointError as error:
            raise CheckpointError(
                f"the content from byte {place.offset:,} on of {place.relative_path} in a shard is not part of a "
                f"checkpoint: it {error}. {_ADVICE}"
            ) from None
        return slice_file(reader, file, place)

    return take_slice
