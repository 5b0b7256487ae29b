"""Checks pickled objects in the shards of a checkpoint against an allow-list before torch reads them."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import torch

from harness.checkpoint.metadata_pickle import UnpicklingError
from harness.errors import CheckpointError

TakeObject = Callable[[Any, Any, io.BytesIO], None]
"""A method of torch's planner, which runs whatever the pickle of an object names."""


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
                f"the object {name!r} in a shard is not part of a checkpoint: {cause}. Nothing of it was run. "
                "Do not use this checkpoint before you know who wrote it"
            ) from None
        content.seek(0)
        take_object(planner, item, content)

    return load_object
