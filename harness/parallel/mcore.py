"""Starts and ends megatron-core's parallel groups for one layout."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import torch
import torch.distributed as dist

from harness.parallel import cpu
from harness.parallel.meeting import meet
from harness.parallel.ranks import Place, Ranks
from harness.parameters.parameter import Replicas
from harness.plan.axes import AXES
from harness.plan.layouts import Layout

cpu.prepare()

from megatron.core import parallel_state, tensor_parallel  # noqa: E402 (the CPU must be prepared first)

IN_ENVIRONMENT = "env://"
"""The meeting place that the environment names."""


def join(
    world_size: int,
    *,
    rank: int,
    device: torch.device,
    init_method: str = IN_ENVIRONMENT,
    is_told_to_stop: Callable[[], bool] = lambda: False,
) -> Ranks:
    """Join the world of all processes, before it is divided by a layout. Every rank must call it.

    torch is not told the device: it would cut each further group off the world's communicator, with all ranks taking
    part, and at 16,384 ranks a layout has tens of thousands of groups (pytorch issue 130407). So a group connects when
    it is used first.

    The device decides between NCCL and gloo. `init_method` says where the processes meet: in the environment as
    torchrun sets it, or at an address.

    Raises:
        HarnessError: Ranks did not come in time.
        StoppedAtStartError: A rank was told to stop (`is_told_to_stop`), and the others did not come.
    """
    if not dist.is_initialized():
        own_meeting, timeout = init_method == IN_ENVIRONMENT, timedelta(minutes=30)
        store = meet(rank, world_size, is_told_to_stop=is_told_to_stop) if own_meeting else None
        if store is not None:
            store.set_timeout(timeout)
        dist.init_process_group(
            backend="nccl" if device.type == "cuda" else "gloo",
            init_method=None if own_meeting else init_method,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    uncut = Place(rank=0, size=1)
    return Ranks(world=Place(rank=rank, size=world_size), tp=uncut, pp=uncut, dp=uncut, cp=uncut)


def start(layout: Layout, *, rank: int, device: torch.device, seed: int, init_method: str = IN_ENVIRONMENT) -> Ranks:
    """Join the world of `layout.world_size` processes and build the parallel groups. Every rank must call it.

    `seed` is for Megatron's random trackers, which nothing in a step draws from.
    """
    join(layout.world_size, rank=rank, device=device, init_method=init_method)
    # Groups over gloo beside those over NCCL would connect every rank with all others, and nothing of ours uses them.
    parallel_state.initialize_model_parallel(**megatron_sizes(layout), create_gloo_process_groups=False)
    tensor_parallel.model_parallel_cuda_manual_seed(seed)
    return Ranks(
        world=Place(rank=dist.get_rank(), size=dist.get_world_size()),
        tp=_place(parallel_state.get_tensor_model_parallel_group()),
        pp=_place(parallel_state.get_pipeline_model_parallel_group()),
        dp=_place(parallel_state.get_data_parallel_group()),
        cp=_place(parallel_state.get_context_parallel_group()),
        ep=_place(parallel_state.get_expert_model_parallel_group()),
        etp=_place(parallel_state.get_expert_tensor_parallel_group()),
    )


def _place(group: dist.ProcessGroup) -> Place:
    return Place(rank=group.rank(), size=group.size())


def megatron_sizes(layout: Layout) -> dict[str, int | None]:
    """Return the sizes as Megatron takes them: copies follow from the world size, and one chunk per rank is None."""
    chunks = layout.virtual_pipeline if layout.virtual_pipeline > 1 else None
    sizes = layout.sizes(axis for axis in AXES if axis.multiplies != "copies")
    return {**sizes, "virtual_pipeline_model_parallel_size": chunks}


def stage_group() -> dist.ProcessGroup:
    """Return the group of all ranks of this rank's pipeline stage, in the order of their numbers in the world."""
    group: dist.ProcessGroup = parallel_state.get_tensor_and_data_parallel_group(with_context_parallel=True)
    return group


def groups_by_kind() -> dict[str, dist.ProcessGroup]:
    """Return this rank's groups of more than one rank, and the whole world, by name."""
    kinds = {
        "tensor": parallel_state.get_tensor_model_parallel_group(),
        "pipeline": parallel_state.get_pipeline_model_parallel_group(),
        "context": parallel_state.get_context_parallel_group(),
        "data": parallel_state.get_data_parallel_group(),
        "expert": parallel_state.get_expert_model_parallel_group(),
    }
    assert dist.group.WORLD is not None, "the groups were started"
    return {"world": dist.group.WORLD} | {kind: group for kind, group in kinds.items() if group.size() > 1}


def replica_groups() -> dict[Replicas, dist.ProcessGroup]:
    """Return this rank's groups of more than one rank that hold replicas of parameters (see `replicated_over`)."""
    groups: dict[Replicas, dist.ProcessGroup | None] = {
        "expert data": parallel_state.get_expert_data_parallel_group(),
        "data": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "tensor": parallel_state.get_tensor_model_parallel_group(),
        "ends": parallel_state.get_embedding_group(check_initialized=False),  # None between the ends
    }
    return {kind: group for kind, group in groups.items() if group is not None and group.size() > 1}


def end() -> None:
    """Leave all groups, so that the process may start another layout. Every rank must call it."""
    parallel_state.destroy_model_parallel()
    if dist.is_initialized():
        dist.destroy_process_group()
