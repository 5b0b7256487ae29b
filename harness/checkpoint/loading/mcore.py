"""Loads model and optimizer from megatron-core's distributed checkpoint format, saved under whatever layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

from harness.checkpoint.causes import cause
from harness.checkpoint.objections import objection_to
from harness.checkpoint.shard_objects import guarded, guarded_slice
from harness.checkpoint.state.mcore import model_state, whole_state
from harness.checkpoint.torch_index.mcore import read_metadata
from harness.errors import CheckpointError
from harness.parallel import cpu
from harness.parallel.megatron_changes import replace
from harness.run.checkpoints.metadata_pickle import UnpicklingError

cpu.prepare()

import megatron.core  # noqa: E402 (the CPU must be prepared first)
from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core import parallel_state as ps  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingException  # noqa: E402
from megatron.core.dist_checkpointing.strategies import common, fully_parallel  # noqa: E402
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy  # noqa: E402
from megatron.core.dist_checkpointing.validation import StrictHandling  # noqa: E402

replace(DefaultLoadPlanner, "load_bytes", guarded(DefaultLoadPlanner.load_bytes))
replace(FileSystemReader, "read_metadata", read_metadata)
replace(FileSystemReader, "_slice_file", guarded_slice(FileSystemReader._slice_file))

# What `_Shared` reads nobody else needs.
replace(fully_parallel, "exchange_loaded_objects_gather_object", lambda objects: objects)

_NEEDS_COMMON_FILE = hasattr(common, "TorchCommonSaveStrategy")
"""Until 0.16; later versions write no `common.pt`."""
_ERRORS_OF_CONTENT = (
    *(AssertionError, AttributeError, EOFError, IndexError, KeyError, TypeError, UnpicklingError, ValueError),
    CheckpointingException,
)
"""Errors of Megatron's and torch's readers about a checkpoint that is not as they expect it."""


def load(directory: Path, chunks: list[Any], optimizer: Any) -> None:  # noqa: ANN401 (Megatron's types)
    """Read what `save` wrote, under whatever layout, into model and optimizer. Every rank must call it.

    The directory must have been verified: Megatron unpickles some of its files.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs.
    """
    with _reading(directory):
        loaded = _read(directory, whole_state(chunks, optimizer, is_loading=True))
        _fill(directory, chunks, loaded)
        optimizer.load_state_dict(loaded["optimizer"])


def load_weights(directory: Path, chunks: list[Any], *, unused: str | None = None) -> None:
    """Read the model alone, for a checkpoint without optimizer state. Every rank must call it.

    Weights whose names begin with `unused` may be there without a place in the model.

    The optimizer must be updated afterwards, because it keeps weights of its own. The directory must have been
    verified, as for `load`.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs.
    """
    with _reading(directory):
        prefixes = ("optimizer.",) if unused is None else ("optimizer.", unused)
        _fill(directory, chunks, _read(directory, model_state(chunks), unused=prefixes))


_OTHER_OPTIMIZER = "It was saved with another optimizer. Give optimizer.kind as it was, or name another checkpoint."
_LACKS_STATES = "apply_factory_merges"
"""Megatron's function that puts the pieces of a tensor together again: it meets states that are not there, before the
load can say so."""


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turn what Megatron's and torch's readers raise about a checkpoint's content into one kind of error."""
    try:
        yield
    except OSError as error:  # of the small files, which each rank opens by itself
        raise CheckpointError(f"{directory} cannot be loaded: {error.strerror} ({error.filename}).") from error
    except CheckpointException as failed:  # raised on every rank; only the first knows of whom
        causes = (f"rank {rank}: {cause(error)}" for rank, (error, _) in sorted(failed.failures.items()))
        raise CheckpointError(f"{directory} cannot be loaded: {'; '.join(causes) or 'see rank 0'}.") from failed
    except _ERRORS_OF_CONTENT as error:
        text = (str(error).splitlines() or [""])[0][:300]
        if _LACKS_STATES in text:
            raise CheckpointError(f"{directory} lacks states that this optimizer keeps. {_OTHER_OPTIMIZER}") from error
        raise CheckpointError(f"{directory} cannot be loaded: {type(error).__name__}: {text}.") from error


def _read(directory: Path, state: dict[str, Any], *, unused: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the checkpoint's content for the state. Others may be there if their names begin with one of `unused`."""
    strict = StrictHandling.RETURN_ALL
    _require_readable(directory)
    if (objection := objection_to(directory)) is not None:
        raise CheckpointError(f"{directory} cannot be loaded: {objection}.")
    loaded, without_place, absent = dist_checkpointing.load(
        state, str(directory), sharded_strategy=_Shared(), strict=strict
    )
    lacking = sorted(key for key in absent if "_extra_state" not in key)
    if lacking:
        raise CheckpointError(
            f"{directory} lacks {len(lacking)} entries that this model needs, first {lacking[:5]}. {_reason(lacking)}"
        )
    left = sorted(key for key in without_place if "_extra_state" not in key and not key.startswith(unused))
    if left:
        raise CheckpointError(
            f"{directory} has {len(left)} entries for which this model has no place, first {left[:5]}. {_reason(left)}"
        )
    return dict(loaded)


class _Shared(FullyParallelLoadStrategyWrapper):  # type: ignore[misc]  # Megatron has no types
    """Loading by which each data-parallel replica reads a part of the tensors that all of them need.

    They send it to each other, so that every byte of tensors is read once by them. Objects are few and small: each rank
    reads its own.
    """

    def __init__(self) -> None:
        super().__init__(TorchDistLoadShardedStrategy(), ps.get_data_parallel_group(with_context_parallel=True))

    @staticmethod
    def _defer_loading_sharded_objects(state: dict[str, Any]) -> tuple[Any, Any, dict[Any, Any], dict[Any, Any]]:
        """Return Megatron's division of the state, in which this rank reads all objects."""
        found = FullyParallelLoadStrategyWrapper._defer_loading_sharded_objects(state)
        objects, others, own, of_others = found
        return objects, others, own | of_others, {}


def _reason(entries: list[str]) -> str:
    """Return why entries differ, and what to do."""
    if all(key.startswith("optimizer.") for key in entries):
        return _OTHER_OPTIMIZER
    return "It was saved by a different model; name another checkpoint or another configuration."


def _require_readable(directory: Path) -> None:
    """Refuse a checkpoint that only a later megatron-core can read, before this version fails on it."""
    if _NEEDS_COMMON_FILE and not (directory / "common.pt").is_file():
        raise CheckpointError(
            f"{directory} has no common.pt, which megatron-core {megatron.core.__version__} cannot do without; later "
            "versions (0.19, on Python 3.12) write none. Read it with the megatron-core that wrote it: "
            f"`harness checkpoint inspect {directory}` names the version."
        )


def _fill(directory: Path, chunks: list[Any], loaded: dict[str, Any]) -> None:
    for index, chunk in enumerate(chunks):
        try:
            wrong = chunk.module.load_state_dict(loaded[f"model{index}"], strict=False)
        except RuntimeError as error:  # of shapes
            raise CheckpointError(f"{directory} does not fit the model: {cause(error).splitlines()[0]}") from error
        unknown = [key for key in (*wrong.missing_keys, *wrong.unexpected_keys) if "_extra_state" not in key]
        if unknown:
            raise CheckpointError(f"{directory} does not fit the model: {unknown[:5]}.")
