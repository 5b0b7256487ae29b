"""Gathers the optimizer's state of whole buffers from the data-parallel ranks for a checkpoint.

Megatron's own method passes every number through the host's memory five times: it copies a rank's share to the host,
back to the device to be gathered, to the host again in pieces, joins them, and copies them into place. A save stalls
training for that time. Here the shares are gathered on the device and copied once, to the memory from which they are
written. The result is bitwise equal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.parallel import collectives
from harness.parameters.optimizers import ADAMW


def whole_state(optimizer: Any) -> dict[Any, Any]:  # noqa: ANN401 (Megatron's distributed optimizer has no types)
    """Return the result of `DistributedOptimizer.get_parameter_state_dp_zero`, on all ranks. Every rank must call it.

    Returns:
        For each buffer by its number, and its dtype: master weights ("param") and each moment as one fp32 tensor in
        the host's memory, [elements of the buffer without padding at its end].
    """
    # megatron-core 0.16 knows Adam's states only, and has no name for them.
    keys = ("param", *getattr(optimizer, "optimizer_state_keys", ADAMW.states))
    state: dict[Any, Any] = {"buckets_coalesced": True}
    for number, of_dtypes in enumerate(optimizer.gbuf_ranges):
        ((dtype, of_buckets),) = of_dtypes.items()
        buffer = optimizer.buffers[number]
        whole: dict[str, Any] = {
            key: torch.empty(buffer.numel_unpadded, dtype=torch.float32, device="cpu") for key in keys
        }
        begin = 0
        for bucket, ranges in zip(buffer.buckets, of_buckets, strict=True):
            end = begin + bucket.numel_unpadded
            places = {key: whole[key][begin:end] for key in keys}
            _fill(places, optimizer, bucket.grad_data, ranges["param_map"])
            begin = end
        state[number] = {dtype: {**whole, "numel_unpadded": buffer.numel_unpadded}}
    return state


def _fill(places: dict[str, Tensor], optimizer: Any, bucket: Tensor, ranges: dict[Any, Any]) -> None:  # noqa: ANN401
    """Copy a bucket's state, of all ranks, into `places`: [elements of the bucket without padding] each."""
    num_ranks = optimizer.data_parallel_group.size()
    shares = places
    if num_ranks > 1:
        shares = {key: bucket.new_zeros(bucket.numel() // num_ranks, dtype=torch.float32) for key in places}
    for parameter, of_parameter in ranges.items():
        mine = optimizer._get_main_param_and_optimizer_states(parameter)
        here = of_parameter["gbuf_local"]
        for key, share in shares.items():
            share[here.start : here.end].copy_(mine[key].detach())
    if num_ranks > 1:
        for key, place in places.items():
            place.copy_(collectives.joined(shares.pop(key), optimizer.data_parallel_group)[: len(place)])
