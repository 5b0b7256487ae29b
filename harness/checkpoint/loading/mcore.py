"""Loads model and optimizer from megatron-core's distributed checkpoint format, saved under whatever layout."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

from harness.checkpoint.causes import cause
from harness.checkpoint.objections import OBJECT_MARK, objection_to
from harness.checkpoint.shard_objects import guarded, guarded_slice
from harness.checkpoint.small_files.mcore import SmallFiles, knowing_small_files, read_small_files
from harness.checkpoint.state.mcore import HAS_COMMON_FILE, model_state, whole_state
from harness.checkpoint.torch_index.mcore import knowing, read_metadata
from harness.errors import CheckpointError
from harness.parallel import collectives, cpu
from harness.parallel.megatron_changes import replace
from harness.run.checkpoints.metadata_pickle import UnpicklingError
from harness.run.checkpoints.stored_index import StoredIndex, described_index

cpu.prepare()

import megatron.core  # noqa: E402 (the CPU must be prepared first)
from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core import parallel_state as ps  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingException  # noqa: E402
from megatron.core.dist_checkpointing.dict_utils import nested_values  # noqa: E402
from megatron.core.dist_checkpointing.state_dict_utils import load_preprocess  # noqa: E402
from megatron.core.dist_checkpointing.strategies import fully_parallel  # noqa: E402
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelLoadStrategyWrapper  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import TorchDistLoadShardedStrategy  # noqa: E402
from megatron.core.dist_checkpointing.utils import extract_sharded_base  # noqa: E402
from megatron.core.dist_checkpointing.validation import StrictHandling  # noqa: E402

replace(DefaultLoadPlanner, "load_bytes", guarded(DefaultLoadPlanner.load_bytes))
replace(FileSystemReader, "read_metadata", read_metadata)
replace(FileSystemReader, "_slice_file", guarded_slice(FileSystemReader._slice_file))

# What `_Shared` reads nobody else needs.
replace(fully_parallel, "exchange_loaded_objects_gather_object", lambda objects: objects)

if HAS_COMMON_FILE:  # later versions read so by themselves
    read_without_others = partial(torch.distributed.checkpoint.load_state_dict, no_dist=True)  # type: ignore[attr-defined]
    replace(torch.distributed.checkpoint, "load_state_dict", read_without_others)
_ERRORS_OF_CONTENT = (
    *(AssertionError, AttributeError, EOFError, IndexError, KeyError, TypeError, UnpicklingError, ValueError),
    CheckpointingException,
)
"""Errors of Megatron's and torch's readers about a checkpoint that is not as they expect it."""
_READING_ERRORS = (OSError, CheckpointException, *_ERRORS_OF_CONTENT)


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
_EXTRA = "_extra_state"
"""Mark of entries that Megatron's modules may have or not."""
_OF_MEGATRON = {"common_state"}
"""Entries that Megatron reads by itself."""


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turn what Megatron's and torch's readers raise about a checkpoint's content into one kind of error."""
    try:
        yield
    except _READING_ERRORS as error:
        raise CheckpointError(f"{directory} cannot be loaded: {_told(error)}.") from error


def _told(error: BaseException) -> str:
    """Return what is wrong with a checkpoint."""
    if isinstance(error, CheckpointException):
        return "; ".join(cause(of_rank) for of_rank, _ in error.failures.values()) or "it cannot be read"
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"


def _read(directory: Path, state: dict[str, Any], *, unused: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the checkpoint's content for the state. Others may be there if their names begin with one of `unused`."""
    inspected = collectives.from_rank_0(_inspected(directory) if dist.get_rank() == 0 else None)
    assert inspected is not None, "rank 0 has inspected it"
    if isinstance(inspected, str):
        raise CheckpointError(inspected)
    index, small_files = inspected
    _require_fitting(directory, state, index, unused)
    with knowing(directory, index), knowing_small_files(directory, small_files):
        loaded, *_ = dist_checkpointing.load(
            state,
            str(directory),
            sharded_strategy=_Shared(),
            strict=StrictHandling.RETURN_UNEXPECTED,
            validate_access_integrity=False,
        )
    return dict(loaded)


def _inspected(directory: Path) -> tuple[StoredIndex, SmallFiles] | str:
    """Return the index and the small files of a checkpoint, or why it cannot be loaded."""
    try:
        _require_readable(directory)
        if (objection := objection_to(directory)) is None:
            return described_index(directory), read_small_files(directory)
    except CheckpointError as error:
        return str(error)
    except (OSError, ValueError) as error:
        objection = _told(error)
    return f"{directory} cannot be loaded: {objection}."


def _require_fitting(directory: Path, state: dict[str, Any], index: StoredIndex, unused: tuple[str, ...]) -> None:
    """Check that the checkpoint has the entries of all ranks' states and no others. Every rank must call it.

    Entries may be left over if their names begin with one of `unused`.

    Raises:
        CheckpointError: It has others. Raised on every rank, with the same text.
    """
    wanted = {entry.key for entry in nested_values(extract_sharded_base(load_preprocess(state)[0])[0])}
    stored = sorted({*index.tensors, *(name.partition(OBJECT_MARK)[0] for name in index.objects)} - _OF_MEGATRON)
    lacking = sorted(key for key in wanted - set(stored) if _EXTRA not in key)
    if collectives.is_true_anywhere(bool(lacking)):
        lacking = sorted({key for of_rank in collectives.gathered(lacking) for key in of_rank})
        raise CheckpointError(
            f"{directory} lacks {len(lacking)} entries that this model needs, first {lacking[:5]}. {_reason(lacking)}"
        )
    flags = collectives.true_anywhere([key in wanted for key in stored])
    left = [key for key, is_wanted in zip(stored, flags, strict=True) if not is_wanted]
    left = [key for key in left if _EXTRA not in key and not key.startswith(unused)]
    if left:
        raise CheckpointError(
            f"{directory} has {len(left)} entries for which this model has no place, first {left[:5]}. {_reason(left)}"
        )


class _Reader(TorchDistLoadShardedStrategy):  # type: ignore[misc]  # Megatron has no types
    """Megatron's way to read a checkpoint, in which an error on any rank is raised on all."""

    def load(self, sharded_state_dict: dict[str, Any], checkpoint_dir: Path, *reader: str) -> Any:  # noqa: ANN401
        """Return what this rank reads. Every rank must call it.

        Raises:
            CheckpointError: Some rank cannot read its part. Raised on every rank, with the same text.
        """
        loaded, problems = None, []
        try:
            loaded = super().load(sharded_state_dict, checkpoint_dir, *reader)
        except _READING_ERRORS as error:
            problems = [f"rank {dist.get_rank()}: {_told(error)}"]
        if problems := collectives.problems_anywhere(problems):
            raise CheckpointError(f"{checkpoint_dir} cannot be loaded: {'; '.join(problems)}.")
        return loaded


class _Shared(FullyParallelLoadStrategyWrapper):  # type: ignore[misc]  # Megatron has no types
    """Loading by which each data-parallel replica reads a part of the tensors that all of them need.

    They send it to each other, so that every byte of tensors is read once by them. Objects are few and small: each rank
    reads its own.
    """

    def __init__(self) -> None:
        super().__init__(_Reader(), ps.get_data_parallel_group(with_context_parallel=True))

    @staticmethod
    def _defer_loading_sharded_tensors(state: dict[str, Any]) -> tuple[Any, Any, dict[Any, Any], dict[Any, Any]]:
        """Return Megatron's division of the state, in which what replicas send lies in one piece.

        A collective takes the memory behind a view, and gloo says nothing.
        """
        tensors, others, own, of_others = FullyParallelLoadStrategyWrapper._defer_loading_sharded_tensors(state)
        for tensor in (*own.values(), *of_others.values()):
            if tensor.data is not None and not tensor.data.is_contiguous():
                tensor.data = torch.empty_like(tensor.data, memory_format=torch.contiguous_format)
        return tensors, others, own, of_others

    @staticmethod
    def _defer_loading_sharded_objects(state: dict[str, Any]) -> tuple[Any, Any, dict[Any, Any], dict[Any, Any]]:
        """Return Megatron's division of the state, in which this rank reads all objects."""
        objects, others, own, of_others = FullyParallelLoadStrategyWrapper._defer_loading_sharded_objects(state)
        return objects, others, own | of_others, {}


def _reason(entries: list[str]) -> str:
    """Return why entries differ, and what to do."""
    if all(key.startswith("optimizer.") for key in entries):
        return _OTHER_OPTIMIZER
    return "It was saved by a different model; name another checkpoint or another configuration."


def _require_readable(directory: Path) -> None:
    """Refuse a checkpoint that only a later megatron-core can read, before this version fails on it."""
    if HAS_COMMON_FILE and not (directory / "common.pt").is_file():
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
        unknown = [key for key in (*wrong.missing_keys, *wrong.unexpected_keys) if _EXTRA not in key]
        if unknown:
            raise CheckpointError(f"{directory} does not fit the model: {unknown[:5]}.")
