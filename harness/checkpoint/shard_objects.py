"""Checks what is in the shards of a checkpoint before torch reads it: limits of all, an allow-list for objects."""

from __future__ import annotations

import io
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


def guarded(take_object: TakeObject) -> TakeObject:
    """Return the method behind torch's allow-list, to which megatron-core has added its own harmless classes.

    Megatron's planner is one of torch's. From 0.19 on a plain one of torch's reads what was in `common.pt` before.
    """

    def load_object(planner: Any, item: Any, content: io.BytesIO) -> None:  # noqa: ANN401 (torch's types)
        """Take an object out of a shard.

        Raises:
            CheckpointError: It names something that is not part of a checkpoint.
        """
        name = item.dest_index.fqn
        try:
            require_bounded(content)
            torch.load(content, map_location="cpu", weights_only=True)
        except CheckpointError as error:
            raise CheckpointError(f"the object {name!r} in a shard {error}") from None
        except UnpicklingError as error:
            cause = str(error).splitlines()[0][:200]
            raise CheckpointError(
                f"the object {name!r} in a shard is not part of a checkpoint: {cause}. Nothing of it was run. "
                "Do not use this checkpoint before you know who wrote it"
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
        part = slice_file(reader, file, place)
        try:
            require_bounded(part)
        except CheckpointError as error:
            raise CheckpointError(f"{place.relative_path} at byte {place.offset:,} {error}") from None
        return part

    return take_slice
