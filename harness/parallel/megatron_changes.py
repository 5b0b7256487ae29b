"""Everything of Megatron, and of torch for Megatron, that is replaced at run time: one table, and the way to do it.

A replacement that is not in the table is refused. What a replacement does stands where it is made. A test looks at each
row without the change, under the megatron-core that is installed, and tells when nobody needs it any more.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

BOTH = ("0.16", "0.19")
"""Versions of megatron-core that are supported."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Names in a module, a class or a package, or of objects of a class, that are replaced for one reason."""

    owner: str
    names: tuple[str, ...]
    made_in: str
    """Module that brings the replacements."""
    why: str
    versions: tuple[str, ...] = BOTH
    """Versions of megatron-core that need it."""

    @property
    def places(self) -> tuple[str, ...]:
        """Full names of all that is replaced."""
        return tuple(f"{self.owner}.{name}" for name in self.names)


_in_files = partial(Change, owner="megatron.core.dist_checkpointing", made_in="harness.checkpoint.saving.files.mcore")
_in_small_files = partial(
    Change, owner="megatron.core.dist_checkpointing", made_in="harness.checkpoint.small_files.mcore"
)
_in_saving = partial(Change, owner="megatron.core.dist_checkpointing", made_in="harness.checkpoint.saving.mcore")

CHANGES = (
    Change(
        owner="torch.cuda",
        names=(
            *("current_device", "set_device", "synchronize", "ipc_collect", "manual_seed"),
            *("get_rng_state", "set_rng_state", "Stream", "current_stream", "default_stream"),
        ),
        made_in="harness.parallel.cpu",
        why="Megatron asks them on every machine; without a GPU they raise, or do nothing where the CPU should do it.",
    ),
    Change(
        owner="torch",
        names=("compile",),
        made_in="harness.parallel.cpu",
        why="Megatron compiles functions that no model of ours calls while it is imported; without a GPU that is half "
        "of the time that a process needs to start. Put back after the import.",
    ),
    Change(
        owner="torch.cuda.random",
        names=("get_rng_state", "set_rng_state"),
        made_in="harness.parallel.cpu",
        why="torch's own recomputation takes them from here; without a GPU they raise, or do nothing.",
    ),
    Change(
        owner="megatron.core.tensor_parallel.random",
        names=("_set_cuda_rng_state",),
        made_in="harness.parallel.cpu",
        why="It sets the state of a GPU's generator; without a GPU it only remembers to do so later.",
    ),
    Change(
        owner="megatron.core.tensor_parallel.layers",
        names=("fused_weight_gradient_mlp_cuda", "_grad_accum_fusion_available"),
        made_in="harness.model.mcore",
        why="Only apex's kernel adds weight gradients within the product; torch's product does so too on a GPU.",
    ),
    Change(
        owner="megatron.core.transformer.moe.token_dispatcher",
        names=(
            "all_to_all",
            "gather_from_sequence_parallel_region",
            "reduce_scatter_to_sequence_parallel_region",
        ),
        made_in="harness.model.experts.mcore",
        why="They hand over sizes as tensors, or unequal ones, and gloo takes neither.",
    ),
    Change(
        owner="megatron.core.optimizer",
        names=("Adam", "USING_PYTORCH_OPTIMIZER"),
        made_in="harness.optim.mcore",
        why="torch's AdamW keeps a step for every parameter; Transformer Engine's and apex's need a GPU, also where "
        "they are merely installed, and a pass over the gradients to clip them.",
    ),
    Change(
        owner="megatron.core.optimizer.distrib_optimizer",
        names=("Adam", "HAVE_APEX_OR_TE", "USING_APEX_OPTIMIZER"),
        made_in="harness.optim.mcore",
        why="These decide where checkpoints look for the step: in the parameter group, as our AdamW keeps it.",
    ),
    Change(
        owner="megatron.core.optimizer.distrib_optimizer.DistributedOptimizer",
        names=("get_parameter_state_dp_zero",),
        made_in="harness.checkpoint.state.mcore",
        why="It passes the whole state through the host's memory five times, while training waits.",
    ),
    Change(
        owner="torch.distributed.checkpoint.default_planner.DefaultLoadPlanner",
        names=("load_bytes",),
        made_in="harness.checkpoint.loading.mcore",
        why="It runs whatever the pickles in a checkpoint's shards name.",
    ),
    Change(
        owner="torch.distributed.checkpoint.filesystem.FileSystemReader",
        names=("read_metadata",),
        made_in="harness.checkpoint.loading.mcore",
        why="It runs whatever a checkpoint's index names, and believes what that says about files and chunks.",
    ),
    Change(
        owner="torch.distributed.checkpoint.filesystem.FileSystemReader",
        names=("_slice_file",),
        made_in="harness.checkpoint.loading.mcore",
        why="It gives parts of files to a reader that takes as much time and memory as they ask for.",
    ),
    Change(
        owner="torch.distributed.checkpoint",
        names=("load_state_dict",),
        made_in="harness.checkpoint.loading.mcore",
        why="Megatron 0.16 lets it gather what each rank of the world reads, and sends that back to each.",
        versions=("0.16",),
    ),
    Change(
        owner="megatron.core.dist_checkpointing.strategies.fully_parallel",
        names=("exchange_loaded_objects_gather_object",),
        made_in="harness.checkpoint.loading.mcore",
        why="It gathers the objects of all ranks of the world on every rank.",
    ),
    _in_small_files(
        names=("validation.maybe_load_config", "strategies.common.TorchCommonLoadStrategy.load_common"),
        why="Every rank opens the same small files, where one could send them to the others.",
        versions=("0.16",),
    ),
    _in_small_files(
        names=("core.maybe_load_config",),
        why="As that of `validation` in 0.16.",
        versions=("0.19",),
    ),
    _in_saving(
        names=("serialization.Path", "strategies.common.TorchCommonSaveStrategy.save_common"),
        why="Rank 0 lists the new folder and writes `common.pt` alone; if the disk refuses, the others wait for ever.",
        versions=("0.16",),
    ),
    _in_saving(
        names=("serialization.maybe_msc",),
        why="As `Path` in 0.16.",
        versions=("0.19",),
    ),
    _in_files(
        names=("strategies.filesystem_async.open",),
        why="Its writers ask the file how far it is, and so believe a disk that loses what it said it took.",
    ),
    _in_files(
        names=("strategies.filesystem_async._results_queue",),
        why="Its own queue is a further process of every rank, to start and to lose. Replaced for every save.",
    ),
)

_PLACES = frozenset(place for change in CHANGES for place in change.places)


def replace(owner: Any, name: str, replacement: object) -> None:  # noqa: ANN401 (a module, a class or an object)
    """Put a replacement in the place of what a module, a class or one object has under a name."""
    kind = owner if isinstance(owner, type) else type(owner)
    path = owner.__name__ if inspect.ismodule(owner) else f"{kind.__module__}.{kind.__qualname__}"
    assert f"{path}.{name}" in _PLACES, f"{path}.{name} is not in the table of changes to Megatron"
    setattr(owner, name, replacement)
