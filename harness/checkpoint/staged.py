"""Brings to each data-parallel rank what it writes of the optimizer's state in a checkpoint, and nothing else.

Every rank holds an equal share of each bucket, wherever parameters begin and end in it. A checkpoint holds parameters.
So each rank gives pieces of its share to the ranks that write those parameters: the host's memory, and the time to
copy, fall with the number of ranks. Megatron's own method gives everything to every rank, through the host five times.

Shapes: D data-parallel ranks, N states of parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.parallel import collectives
from harness.parameters.optimizers import ADAMW

State = tuple[Tensor, str]
"""One state of a parameter: the parameter, and the name of its state; "param" are the master weights."""
Writers = Mapping[State, Sequence[int]]
"""Ranks, in the group that shares a state, that write some of it."""


class StatesOfBuffer:
    """One state of all parameters of a buffer, in the form that Megatron takes apart: by their places in the buffer."""

    def __init__(self) -> None:
        self._by_begin: dict[int, Tensor] = {}

    def __getitem__(self, place: slice) -> Tensor:
        """Return the state of the parameter at a place: [elements]."""
        return self._by_begin[place.start]

    def put(self, begin: int, numbers: Tensor) -> None:
        """Set the state of the parameter that begins there."""
        self._by_begin[begin] = numbers


class Stretch(NamedTuple):
    """Elements from `begin` to before `end`."""

    begin: int
    end: int


def writers_of(own: Mapping[State, bool], group: collectives.Group) -> Writers:
    """Return who writes what, from whether this rank writes some of each state. Every rank must call it."""
    if not own:
        return {}
    (parameter, _), *_ = own
    row_N = torch.tensor(list(own.values()), dtype=torch.uint8, device=parameter.device)
    rows_DN = collectives.joined(row_N, group).view(group.size(), -1).tolist()
    return {state: [rank for rank, row in enumerate(rows_DN) if row[number]] for number, state in enumerate(own)}


def staged_bytes(writers: Writers, group: collectives.Group) -> int:
    """Return the bytes that `staged_state` puts together for this rank: none if it has the whole state."""
    if group.size() == 1:
        return 0
    return sum(4 * parameter.numel() for (parameter, _), ranks in writers.items() if group.rank() in ranks)


def staged_state(
    optimizer: Any,  # noqa: ANN401 (Megatron has no types)
    writers: Writers,
    *,
    leave_on_device: bool = False,
) -> dict[Any, Any]:
    """Return the result of `DistributedOptimizer.get_parameter_state_dp_zero`, with numbers only of what a rank writes.

    Every rank of the optimizer's group must call it. Without writers nothing is exchanged.

    Returns:
        For each buffer by its number, and its dtype: master weights ("param") and each moment of each parameter, fp32
        [elements of the parameter]. A rank that has the whole state gives the tensors that it trains with, any other
        what lies in the host's memory, or with `leave_on_device` in that of the device, without waiting for it. The
        numbers of what a rank does not write mean nothing.
    """
    # megatron-core 0.16 knows Adam's states only, and has no name for them.
    keys = ("param", *getattr(optimizer, "optimizer_state_keys", ADAMW.states))
    state: dict[Any, Any] = {"buckets_coalesced": True}
    for number, of_dtypes in enumerate(optimizer.gbuf_ranges):
        ((dtype, of_buckets),) = of_dtypes.items()
        buffer = optimizer.buffers[number]
        states = {key: StatesOfBuffer() for key in keys}
        for begin, end, _ in buffer.param_index_map.values():
            for key in keys:
                states[key].put(begin, _memory(end - begin))
        for bucket, ranges in zip(buffer.buckets, of_buckets, strict=True):
            for key in keys:
                written = _written(key, buffer, bucket, writers)
                own = {
                    parameter: optimizer._get_main_param_and_optimizer_states(parameter)[key].detach().view(-1)
                    for parameter in written
                    if parameter in ranges["param_map"]
                }
                its_writers = {parameter: writers[parameter, key] for parameter in written}
                place = bucket.grad_data.device if leave_on_device else torch.device("cpu")
                for parameter, numbers in _brought_together(own, written, its_writers, bucket, optimizer, place):
                    states[key].put(buffer.param_index_map[parameter][0], numbers)
        state[number] = {dtype: {**states, "numel_unpadded": buffer.numel_unpadded}}
    return state


def _memory(num_elements: int, device: str | torch.device = "cpu") -> Tensor:
    """Return memory for numbers. Before somebody writes them it takes none of the host's."""
    return torch.empty(num_elements, dtype=torch.float32, device=device)


def _written(key: str, buffer: Any, bucket: Any, writers: Writers) -> dict[Any, Stretch]:  # noqa: ANN401
    """Return the parameters of a bucket of which some rank writes a state, and their places in the bucket."""
    return {
        parameter: Stretch(begin - bucket.offset, end - bucket.offset)
        for parameter, (begin, end, _) in buffer.param_index_map.items()
        if parameter in bucket.params and writers.get((parameter, key))
    }


def _brought_together(
    own: Mapping[Tensor, Tensor],
    written: Mapping[Tensor, Stretch],
    writers: Mapping[Tensor, Sequence[int]],
    bucket: Any,  # noqa: ANN401 (Megatron's types)
    optimizer: Any,  # noqa: ANN401
    device: torch.device,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the parameters that this rank writes with one of their states: [elements], on `device`.

    `own` has what this rank keeps of that state: the elements of each parameter in its share of the bucket.
    """
    group: collectives.Group = optimizer.data_parallel_group
    if group.size() == 1 or not written:
        yield from own.items()
        return
    given: list[list[Tensor]] = [[] for _ in range(group.size())]
    for parameter, numbers in own.items():
        for writer in writers[parameter]:
            given[writer].append(numbers)
    share = bucket.grad_data.numel() // group.size()
    taken: list[list[Tensor]] = [[] for _ in range(group.size())]
    mine = {}
    for parameter, place in written.items():
        if group.rank() not in writers[parameter]:
            continue
        mine[parameter] = _memory(place.end - place.begin, device)
        for rank, piece in pieces_of(place, share):
            taken[rank].append(mine[parameter][piece.begin : piece.end])
    _exchange(given, taken, group, bucket.grad_data.device)
    yield from mine.items()


def pieces_of(place: Stretch, share: int) -> Iterator[tuple[int, Stretch]]:
    """Yield the ranks that hold elements of a parameter, with the elements, counted from the parameter's first.

    Args:
        place: The parameter's place in its bucket.
        share: Elements of the bucket that each rank holds.
    """
    for rank in range(place.begin // share, -(-place.end // share)):
        begin, end = max(place.begin, rank * share), min(place.end, (rank + 1) * share)
        yield rank, Stretch(begin - place.begin, end - place.begin)


def _exchange(
    given: Sequence[Sequence[Tensor]],
    taken: Sequence[Sequence[Tensor]],
    group: collectives.Group,
    device: torch.device,
) -> None:
    """Give each rank its tensors of `given`, and fill those of `taken`, by rank, with what the ranks gave."""
    given_sizes, taken_sizes = (
        [sum(piece.numel() for piece in of_rank) for of_rank in of_ranks] for of_ranks in (given, taken)
    )
    pieces = [torch.empty(0, device=device), *(piece for of_rank in given for piece in of_rank)]
    numbers = collectives.exchanged(torch.cat(pieces), given_sizes, taken_sizes, group)
    begin = 0
    for place in (place for of_rank in taken for place in of_rank):
        place.copy_(numbers[begin : begin + place.numel()])
        begin += place.numel()
