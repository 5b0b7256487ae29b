"""Saves and loads model and optimizer in megatron-core's distributed checkpoint format, independent of the layout.

Megatron writes three small files on rank 0 only (`common.pt`, `.metadata`, `metadata.json`) while the other ranks wait
in a collective. An error there would leave them waiting, so `_Strategy` holds it back until all ranks can receive it.
"""

from __future__ import annotations

import gc
import inspect
import queue
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader

from harness.checkpoint.complete import incompleteness
from harness.checkpoint.counted import Opener, Records
from harness.checkpoint.forked_results import ForkedResults
from harness.checkpoint.gathered import whole_state
from harness.checkpoint.joint_records import at_rank_0
from harness.checkpoint.objections import objection_to
from harness.checkpoint.shard_objects import guarded, guarded_slice
from harness.checkpoint.torch_index.mcore import read_metadata
from harness.checkpoint.writing import Writing
from harness.errors import CheckpointError, SaveFailedError
from harness.parallel import collectives, cpu
from harness.parallel.megatron_changes import replace
from harness.parallel.ranks import Place
from harness.run.checkpoints.metadata_pickle import UnpicklingError

cpu.prepare()

import megatron.core  # noqa: E402 (the CPU must be prepared first)
from megatron.core import dist_checkpointing  # noqa: E402
from megatron.core import parallel_state as ps  # noqa: E402
from megatron.core.dist_checkpointing import serialization  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingConfig, CheckpointingException, save_config  # noqa: E402
from megatron.core.dist_checkpointing.strategies import common, filesystem_async  # noqa: E402
from megatron.core.dist_checkpointing.strategies.fully_parallel import FullyParallelSaveStrategyWrapper  # noqa: E402
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy  # noqa: E402
from megatron.core.dist_checkpointing.validation import StrictHandling  # noqa: E402
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer  # noqa: E402

replace(DefaultLoadPlanner, "load_bytes", guarded(DefaultLoadPlanner.load_bytes))
replace(FileSystemReader, "read_metadata", read_metadata)
replace(FileSystemReader, "_slice_file", guarded_slice(FileSystemReader._slice_file))

# Megatron's writers open their files by this name. They ask the file how far it is, and so believe a disk that lies.
_open = Opener()
replace(filesystem_async, "open", _open)

# `_Strategy` writes this file, and survives a refusal.
replace(serialization, "save_config", lambda *_: None)


class _Unlisted(type(Path())):  # type: ignore[misc]
    """A folder that appears empty to Megatron before it writes.

    Otherwise rank 0 alone could be refused when it lists the folder.
    """

    def iterdir(self) -> Iterator[Path]:
        """Return no entries."""
        return iter(())


if hasattr(serialization, "maybe_msc"):  # from 0.19 on
    replace(serialization, "maybe_msc", SimpleNamespace(Path=_Unlisted))
else:
    replace(serialization, "Path", _Unlisted)

_state_of_zeros = DistributedOptimizer.get_parameter_state_dp_zero


def _get_parameter_state(optimizer: Any, *arguments: Any, empty_data: bool = False, **ways: Any) -> Any:  # noqa: ANN401
    """Replace Megatron's method, which is slow, except if a load needs empty tensors."""
    return _state_of_zeros(optimizer, *arguments, empty_data=True, **ways) if empty_data else whole_state(optimizer)


replace(DistributedOptimizer, "get_parameter_state_dp_zero", _get_parameter_state)

_HAS_COMMON_FILE = hasattr(common, "TorchCommonSaveStrategy")
"""Until 0.16; later versions write no `common.pt`."""
_FORMAT = ("torch_dist", 1)
_DISK_ERRORS = (OSError, RuntimeError)
"""Errors of a full or failing disk. torch's own writer raises RuntimeError."""
_WRAPPING = re.compile(r"^(Worker failure: )?(\[Errno [0-9]+\] )?")

_ERRORS_OF_CONTENT = (
    *(AssertionError, AttributeError, EOFError, IndexError, KeyError, TypeError, UnpicklingError, ValueError),
    CheckpointingException,
)
"""Errors of Megatron's and torch's readers about a checkpoint that is not as they expect it."""

# Every parameter's state in the parameter's own shape, so that any layout can load it.
_SHARDING = {"distrib_optim_sharding_type": "fully_reshardable", "chained_optim_avoid_prefix": True}


def save(
    directory: Path,
    chunks: list[Any],
    optimizer: Any,  # noqa: ANN401 (Megatron's types)
    *,
    with_sha256: bool = False,
) -> Records:
    """Write this rank's model chunks and Megatron's optimizer as `torch_dist` files. Every rank must call it.

    The directory must be empty, and on a file system that all ranks share.

    Returns:
        On rank 0 the records of the files that the ranks have written, one each, hashed meanwhile.

    Raises:
        SaveFailedError: The disk refused something on some rank. Raised on every rank, with the same text.
    """
    complete_parameters(chunks)
    state = _sharded_state(chunks, optimizer, is_loading=False)
    results = _results_of_writer(with_sha256=with_sha256)
    strategy = _shared_among_replicas(_Strategy())
    dist_checkpointing.save(state, str(directory), sharded_strategy=strategy, content_metadata=_SHARDING)
    return _complete(directory, results.records)


def begin_save(
    directory: Path,
    chunks: list[Any],
    optimizer: Any,  # noqa: ANN401 (Megatron's types)
    *,
    with_sha256: bool = False,
) -> Writing:
    """Begin a save like `save`, and return when the state is copied. Another process of each rank writes it.

    Every rank must call it.
    """
    complete_parameters(chunks)
    results = _results_of_writer(with_sha256=with_sha256)
    strategy = _Strategy()
    # From 0.19 on the writer has a name, and the default one is an extra package.
    named = (
        {"async_strategy": "mcore"} if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters else {}
    )
    request = dist_checkpointing.save(
        _sharded_state(chunks, optimizer, is_loading=False),
        str(directory),
        sharded_strategy=_shared_among_replicas(strategy),
        content_metadata=_SHARDING,
        async_sharded_save=True,
        **named,
    )

    def conclude() -> Records:
        strategy.conclude(request.finalize_fns[0], str(directory))
        return _complete(directory, results.records)

    return Writing(request, results, conclude)


def _results_of_writer(*, with_sha256: bool) -> ForkedResults:
    """Return the queue of the next writer's result, a list if it does not fork: Megatron's is a process to lose."""
    results = ForkedResults()
    replace(filesystem_async, "_results_queue", results)
    _open.take()  # of a save that failed
    _open.with_sha256 = with_sha256
    return results


def load(directory: Path, chunks: list[Any], optimizer: Any) -> None:  # noqa: ANN401 (Megatron's types)
    """Read what `save` wrote, under whatever layout, into model and optimizer. Every rank must call it.

    The directory must have been verified: Megatron unpickles some of its files.

    Raises:
        CheckpointError: The checkpoint lacks something that the model needs.
    """
    with _reading(directory):
        loaded = _read(directory, _sharded_state(chunks, optimizer, is_loading=True))
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
        _fill(directory, chunks, _read(directory, _model_state(chunks), unused=prefixes))


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
        causes = (f"rank {rank}: {_cause(error)}" for rank, (error, _) in sorted(failed.failures.items()))
        raise CheckpointError(f"{directory} cannot be loaded: {'; '.join(causes) or 'see rank 0'}.") from failed
    except _ERRORS_OF_CONTENT as error:
        cause = (str(error).splitlines() or [""])[0][:300]
        if _LACKS_STATES in cause:
            raise CheckpointError(f"{directory} lacks states that this optimizer keeps. {_OTHER_OPTIMIZER}") from error
        raise CheckpointError(f"{directory} cannot be loaded: {type(error).__name__}: {cause}.") from error


def _read(directory: Path, state: dict[str, Any], *, unused: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the checkpoint's content for the state. Others may be there if their names begin with one of `unused`."""
    strict = StrictHandling.RETURN_ALL
    _require_readable(directory)
    if (objection := objection_to(directory)) is not None:
        raise CheckpointError(f"{directory} cannot be loaded: {objection}.")
    loaded, without_place, absent = dist_checkpointing.load(state, str(directory), strict=strict)
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


def _reason(entries: list[str]) -> str:
    """Return why entries differ, and what to do."""
    if all(key.startswith("optimizer.") for key in entries):
        return _OTHER_OPTIMIZER
    return "It was saved by a different model; name another checkpoint or another configuration."


def _require_readable(directory: Path) -> None:
    """Refuse a checkpoint that only a later megatron-core can read, before this version fails on it."""
    if _HAS_COMMON_FILE and not (directory / "common.pt").is_file():
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
            raise CheckpointError(f"{directory} does not fit the model: {_cause(error).splitlines()[0]}") from error
        unknown = [key for key in (*wrong.missing_keys, *wrong.unexpected_keys) if "_extra_state" not in key]
        if unknown:
            raise CheckpointError(f"{directory} does not fit the model: {unknown[:5]}.")


def complete_parameters(chunks: list[Any]) -> None:
    """Gather the parameters that other ranks have updated, as the next forward pass would have done.

    Every rank must call it.
    """
    for chunk in chunks:
        if chunk.ddp_config.overlap_param_gather:
            chunk.start_param_sync(force_sync=True)


def _model_state(chunks: list[Any]) -> dict[str, Any]:
    return {
        f"model{index}": chunk.module.sharded_state_dict(metadata=dict(_SHARDING)) for index, chunk in enumerate(chunks)
    }


def _sharded_state(chunks: list[Any], optimizer: Any, *, is_loading: bool) -> dict[str, Any]:  # noqa: ANN401
    state = _model_state(chunks)
    state["optimizer"] = optimizer.sharded_state_dict(dict(state), is_loading=is_loading, metadata=dict(_SHARDING))
    _leave_out_what_is_not_kept(optimizer, state["optimizer"])
    return state


def _leave_out_what_is_not_kept(optimizer: Any, state: dict[Any, Any]) -> None:  # noqa: ANN401 (Megatron's types)
    """Take states from what is saved or loaded that the optimizer does not keep of a parameter.

    Megatron takes it that there are the same of all parameters.
    """
    parts = optimizer.chained_optimizers
    for number, part in enumerate(parts):
        of_part = state if len(parts) == 1 else state[number]
        parameters = (parameter for buffer in part.buffers for parameter in buffer.param_index_map)
        for parameter, tensors in zip(parameters, of_part["param_state"].values(), strict=True):
            for name in tensors.keys() - {"param", *parameter.kept_states}:
                del tensors[name]


def _shared_among_replicas(strategy: _Strategy) -> Any:  # noqa: ANN401 (Megatron's type)
    """Wrap the strategy so that each data-parallel replica writes its share of what all of them have."""
    return FullyParallelSaveStrategyWrapper(strategy, ps.get_data_parallel_group(with_context_parallel=True))


class _Strategy(TorchDistSaveShardedStrategy):  # type: ignore[misc]  # Megatron has no types
    """Megatron's save strategy, in which every rank takes part in every collective before an error is raised on all."""

    def __init__(self) -> None:
        super().__init__(*_FORMAT, thread_count=1)  # a file for each rank
        self._problems: list[str] = []
        if _HAS_COMMON_FILE:
            from megatron.core.dist_checkpointing.strategies import base

            strategy = common.TorchCommonSaveStrategy("torch", 1)
            replace(strategy, "save_common", partial(self._attempt, strategy.save_common))
            base.register_default_strategy(base.StrategyAction.SAVE_COMMON, "torch", 1, strategy)

    def save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str) -> None:
        """Save as Megatron does. Megatron calls this in the middle of its own `save`, after `common.pt`."""
        self.conclude(partial(super().save, sharded_state_dict, checkpoint_dir), checkpoint_dir)

    def conclude(self, write: Callable[[], None], checkpoint_dir: str) -> None:
        """Run the writing that all ranks do together, then write the last small file. Every rank gets every error.

        Raises:
            SaveFailedError: The disk refused something on some rank. Raised on every rank, with the same text.
        """
        try:
            write()
        except CheckpointException as failed:  # raised on every rank; only the first knows of whom
            self._problems += [f"rank {rank}: {_cause(error)}" for rank, (error, _) in sorted(failed.failures.items())]
        if dist.get_rank() == 0:
            self._attempt(save_config, CheckpointingConfig(*_FORMAT), checkpoint_dir)
        if not collectives.sum_over(torch.tensor([float(len(self._problems))], device=_device())).item():
            return
        problems = [problem for of_rank in collectives.gathered(self._problems) for problem in of_rank]
        raise SaveFailedError("; ".join(dict.fromkeys(problems)))

    def _get_save_and_finalize_callbacks(self, writer: Any, *arguments: Any) -> Any:  # noqa: ANN401
        """Replace methods of the writer of `.metadata` on rank 0. Megatron calls this with the writer."""
        replace(writer, "finish", partial(self._attempt, writer.finish))
        replace(writer, "write_preloaded_data_multiproc", _write_files)  # of 0.16
        replace(writer, "write_preloaded_data_multithread", _write_files)  # of later versions
        return super()._get_save_and_finalize_callbacks(writer, *arguments)

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        try:
            write(*arguments)
        except _DISK_ERRORS as error:
            self._problems.append(f"rank {dist.get_rank()}: {_cause(error)}")


def _complete(folder: Path, own: Records) -> Records:
    """Return the records of all ranks' files on rank 0. Every rank must call it.

    Raises:
        SaveFailedError: A file that the ranks have written is incomplete. Raised on every rank.
    """
    problem = None
    records = at_rank_0(own, Place(rank=dist.get_rank(), size=dist.get_world_size()), _device())
    if dist.get_rank() == 0:
        try:
            problem = incompleteness(folder, records)
        except OSError as error:
            problem = _cause(error)
    if problem := collectives.from_rank_0(problem):
        raise SaveFailedError(problem)
    return records


def _device() -> torch.device:
    return torch.device(torch.cuda.current_device())


def _write_files(
    transforms: list[Any],
    _use_msc: bool,
    _rank: int,
    buckets: Sequence[Any],
    results: ForkedResults,
) -> None:
    """Write the files of a rank, each in a thread. The result is what each wrote, or the first error.

    Megatron 0.16 forks a process for each file, and waits for ever for a process that the kernel killed. Later versions
    use threads, but drop the error of the disk.
    """
    is_collecting = gc.isenabled()
    gc.disable()  # in a forked process a collection would free what belongs to the GPU of its parent
    try:
        with ThreadPoolExecutor(max_workers=len(buckets)) as pool:
            outcomes = list(pool.map(partial(_write_file, transforms), buckets))
    finally:
        if is_collecting:
            gc.enable()
    errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    results.put(errors[0] if errors else dict(enumerate(outcomes)), _open.take())


def _write_file(transforms: list[Any], bucket: Any) -> Any:  # noqa: ANN401 (Megatron's types)
    """Write a file as Megatron does; return its record of the file, or the error."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: queue.Queue[None] = queue.Queue()
    done.put(None)
    filesystem_async.FileSystemWriterAsync.write_preloaded_data(
        transforms, 0, bucket, results_queue=outcome, count_queue=done, use_fsync=True
    )
    return outcome.get()[1]


def _cause(error: BaseException) -> str:
    """Return the error of the disk, without the text that the libraries add."""
    return _WRAPPING.sub("", str(error)) or type(error).__name__
