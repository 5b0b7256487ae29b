"""Finds the shares of hidden matrices in Megatron's distributed optimizer.

It cuts every bucket of a flat buffer of parameters into equal stretches, one for each data-parallel rank. All ranks of
a pipeline stage have buffers of the same form, so each knows what the others hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.config.schema import Config
from harness.optim.muon.sharing import Matrix, Share
from harness.optim.muon.update import Held, Muon
from harness.parallel import cpu
from harness.parallel.mcore import stage_group
from harness.parameters.parameter import Parameter
from harness.parameters.table import find_parameter

cpu.prepare()

from megatron.core import parallel_state  # noqa: E402 (the CPU must be prepared first)

_QKV = ".linear_qkv.weight"
_DTYPES = {"medium": torch.bfloat16, "highest": torch.float32}
"""Formats of the iteration, by `muon_fp32_matmul_prec`."""


def make_muon(config: Config, parts: Sequence[Any], shards: Mapping[int, torch.Tensor]) -> Muon:
    """Return the update of all hidden matrices. Their states must exist.

    Args:
        config: The run.
        parts: Megatron's distributed optimizers: of dense parameters and of experts.
        shards: This rank's shard of each parameter, by the parameter's `id`.
    """
    group = stage_group()
    rank, matrices, held = group.rank(), [], {}
    for part in parts:
        for tensor, stretches in _stretches(part):
            parameter = find_parameter(tensor.whole_name, config.model)
            for matrix, begin in _matrices(parameter, _Ranks.of(parameter), stretches, config):
                matrices.append(matrix)
                if rank in matrix.shares:
                    offset = begin + matrix.shares[rank].begin - _own_range(part, tensor).start
                    held[matrix.key] = Held(shard=shards[id(tensor)], optimizer=part.optimizer, offset=offset)
    default = "medium" if config.precision.dtype == "bf16" else "highest"
    dtype = _DTYPES[config.optimizer.muon_fp32_matmul_prec or default]
    return Muon(matrices, held, dtype=dtype, rank=rank, group=group)


def _stretches(part: Any) -> Iterator[tuple[Any, list[tuple[int, int]]]]:  # noqa: ANN401 (Megatron has no types)
    """Yield every parameter of a distributed optimizer, and its numbers [begin, end) on each data-parallel rank."""
    for buffer in part.buffers:
        num_ranks = buffer.data_parallel_group.size()
        for tensor, (start, stop, bucket_number) in buffer.param_index_map.items():
            bucket = buffer.buckets[bucket_number]
            size = bucket.grad_data.numel() // num_ranks
            borders = [min(max(bucket.offset + size * number, start), stop) - start for number in range(num_ranks + 1)]
            stretches = list(zip(borders, borders[1:], strict=False))
            begin, end = stretches[buffer.data_parallel_group.rank()]
            own = _own_range(part, tensor) if begin < end else None
            assert own is None or (own.start, own.end) == (begin, end), f"Megatron cuts {tensor.whole_name} elsewhere"
            yield tensor, stretches


def _own_range(part: Any, tensor: torch.Tensor) -> Any:  # noqa: ANN401 (Megatron's)
    return part._get_model_param_range_map(tensor)["param"]


@dataclass(frozen=True, kw_only=True)
class _Ranks:
    """The ranks of a stage that hold a parameter: tensor-parallel ones are neighbours, then expert-parallel ones."""

    num_parts: int
    """Ranks that share one matrix, or hold copies of it."""
    num_of_experts: int
    """Ranks that share the experts of a layer; 1 if the parameter is not of experts."""

    @classmethod
    def of(cls, parameter: Parameter) -> _Ranks:
        """Return those of a parameter, and check Megatron's order of ranks."""
        if parameter.num_experts is None:
            tensor, experts = parallel_state.get_tensor_model_parallel_group(), None
            data = parallel_state.get_data_parallel_group(with_context_parallel=True)
        else:
            tensor = parallel_state.get_expert_tensor_parallel_group()
            experts = parallel_state.get_expert_model_parallel_group()
            data = parallel_state.get_expert_data_parallel_group()
        ranks = cls(num_parts=tensor.size(), num_of_experts=1 if experts is None else experts.size())
        own = ranks.number(tensor.rank(), 0 if experts is None else experts.rank(), data.rank())
        assert own == stage_group().rank(), "Megatron numbers the ranks of a stage in another order"
        return ranks

    def number(self, part: int, expert: int, data: int) -> int:
        """Return a rank's number in the stage, from its numbers in the three groups."""
        return part + self.num_parts * (expert + self.num_of_experts * data)


def _matrices(
    parameter: Parameter, ranks: _Ranks, stretches: Sequence[tuple[int, int]], config: Config
) -> Iterator[tuple[Matrix, int]]:
    """Yield the hidden matrices of a parameter, each with the place of its part's first number in a rank's parameter.

    `stretches` are the numbers of that which each data-parallel rank holds. Each expert has a matrix of its own; those
    of all ranks are yielded, since each has a share of the work.
    """
    if not parameter.is_matrix:
        return
    dim = 0 if parameter.num_experts is None else 1
    rows, columns = parameter.shape[dim:]
    is_whole = parameter.cut is None
    num_parts = 1 if is_whole else ranks.num_parts
    size = rows * columns // num_parts
    is_split = config.optimizer.muon_split_qkv or not parameter.name.endswith(_QKV)
    num_own = (parameter.num_experts or 1) // ranks.num_of_experts
    for number in range(parameter.num_experts or 1):
        begin = size * (number % num_own)
        shares = {
            ranks.number(each, number // num_own, data): Share(
                part=0 if is_whole else each,
                begin=max(first - begin, 0),
                end=min(last - begin, size),
                is_copy=is_whole and each > 0,
            )
            for data, (first, last) in enumerate(stretches)
            if max(first, begin) < min(last, begin + size)
            for each in range(ranks.num_parts)
        }
        yield (
            Matrix(
                name=parameter.name,
                expert=None if parameter.num_experts is None else number,
                rows=rows,
                columns=columns,
                projections=parameter.projections if is_split else (rows,),
                cut=None if parameter.cut is None else replace(parameter.cut, dim=parameter.cut.dim - dim),
                num_parts=num_parts,
                shares=shares,
            ),
            begin,
        )
