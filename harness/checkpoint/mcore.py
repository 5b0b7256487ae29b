"""Model and optimizer to and from megatron-core's distributed checkpoint format, independent of the layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from harness.errors import CheckpointError
from harness.parallel import cpu

cpu.prepare()

from megatron.core import dist_checkpointing  # noqa: E402 (the CPU must be prepared first)
from megatron.core.dist_checkpointing.core import CheckpointingException  # noqa: E402
from megatron.core.dist_checkpointing.validation import StrictHandling  # noqa: E402

WRITE_ERRORS = (OSError, CheckpointException, CheckpointingException)
"""What `save` raises when the disk refuses, on every rank."""

# Every parameter's state in the parameter's own shape, so that any layout can load it.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


def save(directory: Path, chunks: list[Any], optimizer: Any) -> None:  # noqa: ANN401 (Megatron's types)
    """Writes model and optimizer as `torch_dist` files into the directory. Every rank must call it.

    Args:
        directory: An empty directory on a file system that all ranks share.
        chunks: This rank's model chunks.
        optimizer: Megatron's optimizer.
    """
    state = _sharded_state(chunks, optimizer, is_loading=False)
    dist_checkpointing.save(state, str(directory), content_metadata=_SHARDING)


def load(directory: Path, chunks: list[Any], optimizer: Any) -> None:  # noqa: ANN401 (Megatron's types)
    """Reads what `save` wrote, under whatever layout, into model and optimizer. Every rank must call it.

    The directory must have been verified: Megatron unpickles some of its files.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs.
    """
    state = _sharded_state(chunks, optimizer, is_loading=True)
    loaded, missing, _ = dist_checkpointing.load(state, str(directory), strict=StrictHandling.RETURN_ALL)
    needed = sorted(key for key in missing if "_extra_state" not in key)
    if needed:
        raise CheckpointError(
            f"{directory} lacks {len(needed)} entries that this model needs, first {needed[:5]}. "
            "It was saved by a different model; name another checkpoint or another configuration."
        )
    for index, chunk in enumerate(chunks):
        wrong = chunk.module.load_state_dict(loaded[_model_key(index)], strict=False)
        unknown = [key for key in (*wrong.missing_keys, *wrong.unexpected_keys) if "_extra_state" not in key]
        if unknown:
            raise CheckpointError(f"{directory} does not fit the model: {unknown[:5]}.")
    optimizer.load_state_dict(loaded["optimizer"])


def _model_key(index: int) -> str:
    return f"model{index}"


def _sharded_state(chunks: list[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:  # noqa: ANN401
    state: dict[str, Any] = {
        _model_key(index): chunk.module.sharded_state_dict(metadata=dict(_SHARDING))
        for index, chunk in enumerate(chunks)
    }
    state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=dict(_SHARDING))
    return state
