"""The few collectives that the harness itself calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")
Group = dist.ProcessGroup


def sum_over(tensor: torch.Tensor, group: Group | None = None) -> torch.Tensor:
    """Sum the tensor in place over the group (default: all ranks) and return it. Every rank must call it."""
    dist.all_reduce(tensor, op=dist.ReduceOp.SUM, group=group)
    return tensor


def sum_at_rank_0(tensor: torch.Tensor) -> torch.Tensor:
    """Sum the tensor in place on rank 0, and return it; elsewhere its values mean nothing. Every rank must call it."""
    dist.reduce(tensor, dst=0, op=dist.ReduceOp.SUM)
    return tensor


def is_true_anywhere(flag: bool) -> bool:  # noqa: FBT001 (a value, not a way)
    """Return whether the flag is true on any rank. Every rank must call it."""
    return true_anywhere([flag])[0]


def problems_anywhere(own: list[str]) -> list[str]:
    """Return what went wrong on any rank, each text once. Every rank must call it; if nothing did, it is one flag."""
    if not is_true_anywhere(bool(own)):
        return []
    return list(dict.fromkeys(problem for of_rank in gathered(own) for problem in of_rank))


def true_anywhere(flags: Sequence[bool]) -> list[bool]:
    """Return which of the flags, as many on each rank, are true on any. Every rank must call it."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    found = max_over(torch.tensor(flags, dtype=torch.uint8, device=device))
    return [bool(flag) for flag in found.tolist()]


def max_over(tensor: torch.Tensor, group: Group | None = None) -> torch.Tensor:
    """Take the elementwise maximum in place over the group and return it. Every rank of the group must call it."""
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=group)
    return tensor


def from_rank_0(value: T) -> T:
    """Return rank 0's value on every rank. Every rank must call it; the others' `value` is ignored."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gathered(value: T) -> list[T]:
    """Return every rank's value, in rank order, on every rank. Every rank must call it."""
    values: list[T] = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gathered_at_rank_0(value: T) -> list[T]:
    """Return every rank's value, in rank order, on rank 0, and nothing elsewhere. Every rank must call it."""
    if dist.get_rank():
        dist.gather_object(value, dst=0)
        return []
    values: list[T] = [value] * dist.get_world_size()
    dist.gather_object(value, values, dst=0)
    return values


def joined(share: torch.Tensor, group: Group | None = None) -> torch.Tensor:
    """Concatenate the equal shares [n] of the group's ranks, contiguous, in rank order: [n x ranks of the group].

    Every rank of the group, by default of the world, must call it.
    """
    whole = share.new_empty(share.numel() * dist.get_world_size(group))
    dist.all_gather_into_tensor(whole, share, group=group)
    return whole


def sum_of_share(whole: torch.Tensor, group: Group) -> torch.Tensor:
    """Sum the tensors of the group's ranks, contiguous, and return this rank's equal share: [n x ranks] to [n].

    Every rank of the group must call it.
    """
    share = whole.new_empty(whole.numel() // group.size())
    dist.reduce_scatter_tensor(share, whole, group=group)
    return share


def exchanged(given: torch.Tensor, given_sizes: list[int], taken_sizes: list[int], group: Group) -> torch.Tensor:
    """Give each rank of the group its stretch of a tensor `[numbers]`, and return what they gave, in rank order.

    The sizes are those of the stretches, by rank. Every rank of the group must call it.
    """
    taken = given.new_empty(sum(taken_sizes))
    dist.all_to_all_single(taken, given, taken_sizes, given_sizes, group=group)
    return taken


def to_and_fro(tensor: torch.Tensor, peer: int, *, is_first: bool) -> None:
    """Send the tensor to another rank and get it back, or the other way round where the other is the first."""
    steps = (dist.send, dist.recv) if is_first else (dist.recv, dist.send)
    for step in steps:
        step(tensor, peer)


def is_lost_connection(error: BaseException) -> bool:
    """Return whether a collective failed because another rank is gone, or does not answer."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error)


def barrier(group: Group | None = None) -> None:
    """Wait until every rank of the group is here (default: all ranks). Every rank of it must call it."""
    on_gpu = dist.get_backend(group) == "nccl"
    dist.barrier(group, device_ids=[torch.cuda.current_device()] if on_gpu else None)
