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
        the host's memory, [elements of the buffer without padding at its end]. Where the optimizer keeps no such state
        of a parameter, the numbers mean nothing.
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
            _fill(places, optimizer, buffer, bucket, ranges["param_map"])
            begin = end
        state[number] = {dtype: {**whole, "numel_unpadded": buffer.numel_unpadded}}
    return state


def _fill(
    places: dict[str, Tensor],
    optimizer: Any,  # noqa: ANN401 (Megatron's types here and below)
    buffer: Any,  # noqa: ANN401
    bucket: Any,  # noqa: ANN401
    ranges: dict[Any, Any],
) -> None:
    """Copy a bucket's state, of all ranks, into `places`: [elements of the bucket without padding] each."""
    group = optimizer.data_parallel_group
    own = [(optimizer._get_main_param_and_optimizer_states(tensor), of["gbuf_local"]) for tensor, of in ranges.items()]
    for key, place in places.items():
        kept = [slice(0, len(place))]
        if not all(_keeps(tensor, key) for tensor in bucket.params):
            # Memory that nobody writes to is not taken from the host.
            kept = [
                slice(start - bucket.offset, stop - bucket.offset)
                for tensor, (start, stop, _) in buffer.param_index_map.items()
                if tensor in bucket.params and _keeps(tensor, key)
            ]
        if not kept:
            continue
        share = place
        if group.size() > 1:
            share = bucket.grad_data.new_zeros(bucket.grad_data.numel() // group.size(), dtype=torch.float32)
        for mine, here in own:
            if key in mine:
                share[here.start : here.end].copy_(mine[key].detach())
        if group.size() > 1:
            joined = collectives.joined(share, group)
            for stretch in kept:
                place[stretch].copy_(joined[stretch])


def _keeps(tensor: Any, key: str) -> bool:  # noqa: ANN401 (a parameter that `harness.optim` has marked)
    return key == "param" or key in tensor.kept_states
