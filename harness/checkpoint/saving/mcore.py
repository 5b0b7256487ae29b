"""Saves model and optimizer in megatron-core's distributed checkpoint format, independent of the layout.

Megatron writes three small files on rank 0 only (`common.pt`, `.metadata`, `metadata.json`) while the other ranks wait
in a collective. An error there would leave them waiting, so it is held back until all ranks can receive it.

Who writes what is a matter of the layout alone. Ranks tell each other at the first save, and later ones keep to it: no
object is gathered over the world then, however many ranks there are.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from harness.checkpoint.causes import DISK_ERRORS, cause
from harness.checkpoint.counted import Records
from harness.checkpoint.device_copy import DeviceCopy
from harness.checkpoint.joint_records import at_rank_0
from harness.checkpoint.saving.files.mcore import Planner, Writer, copied_buckets, new_results
from harness.checkpoint.staged import State, Writers, staged_bytes, writers_of
from harness.checkpoint.state.mcore import (
    HAS_COMMON_FILE,
    SHARDING,
    complete_parameters,
    staging_for,
    states_of_parameters,
    whole_state,
)
from harness.checkpoint.writing import Writing
from harness.errors import SaveFailedError
from harness.parallel import collectives, cpu
from harness.parallel.megatron_changes import replace
from harness.parallel.ranks import Place

cpu.prepare()

from megatron.core import dist_checkpointing  # noqa: E402 (the CPU must be prepared first)
from megatron.core import parallel_state as ps  # noqa: E402
from megatron.core.dist_checkpointing import exchange_utils, serialization, validation  # noqa: E402
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config  # noqa: E402
from megatron.core.dist_checkpointing.dict_utils import nested_values  # noqa: E402
from megatron.core.dist_checkpointing.mapping import apply_factories, is_main_replica  # noqa: E402
from megatron.core.dist_checkpointing.strategies import common, fully_parallel  # noqa: E402
from megatron.core.dist_checkpointing.strategies import torch as torch_format  # noqa: E402
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest  # noqa: E402
from megatron.core.dist_checkpointing.utils import extract_sharded_base  # noqa: E402


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

# From 0.19 on the writer has a name, and the default one is an extra package.
_NAMED = (
    {"async_strategy": "mcore"} if "async_strategy" in inspect.signature(dist_checkpointing.save).parameters else {}
)
_FORMAT = ("torch_dist", 1)


class Saver:
    """Saves the state of one model and its optimizer, under one layout. Every rank has one, and calls it together."""

    def __init__(
        self,
        chunks: list[Any],
        optimizer: Any,  # noqa: ANN401 (Megatron's types)
        copy: DeviceCopy | None = None,
    ) -> None:
        """Give `copy` if the state is on a GPU."""
        self._chunks, self._optimizer, self._copy = chunks, optimizer, copy
        self._strategy = _Strategy()
        self._writers: Writers | None = None
        self._is_copy_in_use = False
        self._staged_bytes = 0
        """Bytes of optimizer state that other replicas give to this rank to write, with its own share of the same."""

    def begin(
        self,
        directory: Path,
        *,
        measure: Callable[[], list[float]] = list,
        with_sha256: bool = False,
        beside: bool = True,
    ) -> Writing:
        """Begin to write this rank's model chunks and Megatron's optimizer as `torch_dist` files.

        Every rank must call it, and then `finish` what it returns. The directory must be empty, and on a file system
        that all ranks share. Another process of each rank writes, and training may go on; with `beside=False` this
        process writes, before the method returns. `measure` is called on the state that is written, by the process that
        writes if that can see it: not if it is on a GPU. There the state is being copied when the method returns, and
        `before_update` must be called before the next update.
        """
        assert not self._is_copy_in_use, "the save before was not finished, and this one would use its memory"
        complete_parameters(self._chunks)
        is_first = self._writers is None
        if self._writers is None:
            self._writers = self._agreed_writers()
        if _device().type != "cpu":
            measure = partial(list, measure())
        results = new_results(measure, with_sha256=with_sha256)
        leave_on_device = self._copy is not None and self._copy.leaves_on_device(self._staged_bytes)
        with staging_for(self._writers, leave_on_device=leave_on_device):
            state = whole_state(self._chunks, self._optimizer, is_loading=False)
        request = self._strategy.request(state, directory, is_first=is_first)

        def conclude() -> Records:
            self.before_update()
            self._is_copy_in_use = False
            return self._strategy.conclude(directory, results.records)

        copied = None if self._copy is None else partial(copied_buckets, copy=self._copy)
        writing = Writing(request, results, conclude, beside=beside, copied=copied)
        self._is_copy_in_use = copied is not None
        self._strategy.let_go()
        return writing

    def before_update(self) -> None:
        """Let a GPU copy what is being saved before it changes any of it. The caller does not wait."""
        if self._copy is not None:
            self._copy.hold()

    @property
    def waits_for_copy(self) -> str | None:
        """Reason why training waits for the copy of its state from a GPU; None if it does not."""
        return None if self._copy is None else self._copy.problem

    def _agreed_writers(self) -> Writers:
        """Return which ranks write something of each state."""
        with staging_for({}):
            state = whole_state(self._chunks, self._optimizer, is_loading=False)
        apply_factories(state)
        self._strategy.distribute(extract_sharded_base(state)[0])
        own: dict[Any, dict[State, bool]] = defaultdict(dict)
        for part, parameter, states in states_of_parameters(self._optimizer, state["optimizer"]):
            for name, of_state in states.items():
                shards = nested_values([of_state])
                own[part][parameter, name] = any(is_main_replica(shard.replica_id) for shard in shards)
        writers: dict[Any, Any] = {}
        for part, of_part in own.items():
            of_this = writers_of(of_part, part.data_parallel_group)
            self._staged_bytes += staged_bytes(of_this, part.data_parallel_group)
            writers |= of_this
        return writers


class _Strategy(torch_format.TorchDistSaveShardedStrategy):  # type: ignore[misc]  # Megatron has no types
    """Megatron's way to save, in which every rank takes part in every collective before an error is raised on all."""

    def __init__(self) -> None:
        super().__init__(*_FORMAT)
        self._replicas = ps.get_data_parallel_group(with_context_parallel=True)
        self._distribution: Any = None
        """The choice among the replicas of who writes what all of them have."""
        self._problems: list[str] = []
        self._writer: Writer | None = None
        self._plan: Any = None
        """Items of this rank's file."""
        self._results: Any = None
        """Places of the items in it."""
        self._metadata: Any = None
        """Rank 0 has the index of all files, but for places, and below the places in the files of all ranks."""
        self._results_of_all: list[Any] = []

    def distribute(self, state: dict[str, Any]) -> None:
        """Agree with the other replicas who writes what, and mark it in the state. Every rank must call it."""
        self._distribution = exchange_utils.determine_main_replica_uniform_distribution(state, self._replicas)
        self._mark(state)
        validation.validate_sharding_integrity(validation.determine_global_metadata(state)[1])

    def request(self, state: dict[str, Any], directory: Path, *, is_first: bool) -> Any:  # noqa: ANN401
        """Return Megatron's request to write this rank's file of a state. Every rank must call it."""
        self._problems = []
        if HAS_COMMON_FILE:
            from megatron.core.dist_checkpointing.strategies import base

            strategy = common.TorchCommonSaveStrategy("torch", 1)
            replace(strategy, "save_common", partial(self._attempt, strategy.save_common))
            base.register_default_strategy(base.StrategyAction.SAVE_COMMON, "torch", 1, strategy)
        return dist_checkpointing.save(
            state,
            str(directory),
            sharded_strategy=self,
            content_metadata=SHARDING,
            validate_access_integrity=is_first,
            async_sharded_save=True,
            **_NAMED,
        )

    def async_save(self, sharded_state_dict: dict[str, Any], checkpoint_dir: str, _writer: str = "") -> AsyncRequest:
        """Plan this rank's file. Megatron calls this in the middle of its own `save`, after `common.pt`."""
        self._mark(sharded_state_dict)
        by_key, _, _ = torch_format._replace_state_dict_keys_with_sharded_keys(sharded_state_dict, True)
        writer, planner = Writer(checkpoint_dir), Planner()
        planner.set_up_planner(torch_format.mcore_to_pyt_state_dict(by_key, False), is_coordinator=_is_rank_0())
        writer.set_up_storage_writer(_is_rank_0())
        plan = writer.prepare_local_plan(planner.create_local_plan())
        if collectives.is_true_anywhere(plan != self._plan):
            plans = collectives.gathered_at_rank_0(plan)
            self._metadata = planner.create_global_plan(plans)[1] if plans else None
            self._plan, self._results = plan, None
        own = writer.prepare_decentralized_global_plan(planner.create_decentralized_global_plan(plan))
        writer.prepare_write_data(planner.finish_plan(own), planner)
        self._writer = writer
        write, preload, arguments = writer.get_save_function_and_args()
        return AsyncRequest(write, arguments, [], preload_fn=preload)

    def let_go(self) -> None:
        """Forget what was requested, now that it is written or that another process has it."""
        assert self._writer is not None, "something was requested"
        self._writer.let_go()

    def conclude(self, directory: Path, own: Records) -> Records:
        """Write the small files, after all ranks have written theirs. Every rank must call it, and gets every error.

        Returns:
            The records of all ranks' files, on rank 0.

        Raises:
            SaveFailedError: The disk refused something on some rank. Raised on every rank, with the same text.
        """
        assert self._writer is not None, "something was requested"
        writer, self._writer = self._writer, None
        results = writer.retrieve_write_results()
        if not isinstance(results, list):
            self._problems.append(f"rank {dist.get_rank()}: {cause(results[0])}")
        if problems := collectives.problems_anywhere(self._problems):
            raise SaveFailedError("; ".join(problems))
        # What rank 0 wrote in its own file need not be told. Objects are there, whose sizes differ from save to save.
        if collectives.is_true_anywhere(not _is_rank_0() and results != self._results):
            self._results_of_all = collectives.gathered_at_rank_0(results)
        self._results = results
        if _is_rank_0():
            everything = [results, *self._results_of_all[1:]]
            self._attempt(writer.finish, self._metadata, everything)
            self._attempt(save_config, CheckpointingConfig(*_FORMAT), str(directory))
        records = at_rank_0(own, Place(rank=dist.get_rank(), size=dist.get_world_size()), _device())
        if problem := collectives.from_rank_0("; ".join(self._problems)):
            raise SaveFailedError(problem)
        return records

    def _mark(self, state: dict[str, Any]) -> None:
        fully_parallel.distribute_main_replicas_with_precomputed_distribution(state, self._replicas, self._distribution)

    def _attempt(self, write: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        try:
            write(*arguments)
        except DISK_ERRORS as error:
            self._problems.append(f"rank {dist.get_rank()}: {cause(error)}")


def _is_rank_0() -> bool:
    return dist.get_rank() == 0


def _device() -> torch.device:
    return torch.device(torch.cuda.current_device())
