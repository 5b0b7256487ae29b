"""Estimate of the memory that a rank needs, part by part, in bytes.

Counted: weights; fp32 main gradients; optimizer state, shared out over data- and context-parallel ranks, that of
experts over the copies of them (equal numbers of parameters each; with Muon, those that hold the embedding have more
state than the mean that is counted); activations that backward needs, for all micro-batches in flight; logits of one
micro-batch; and what backward makes for a moment (see `harness.plan.working_memory`). Not counted: CUDA context and
communication buffers, the allocator's fragments, workspaces of libraries, checkpoints being written. Leave about a
tenth of the device free for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.config.schema import Config
from harness.parameters.table import parameter_table
from harness.plan.layouts import Layout
from harness.plan.parameters import stage_parameters
from harness.plan.stages import layers_per_stage
from harness.plan.working_memory import working_memory

GIB = 1024**3
USABLE_SHARE = 0.9
"""Share of a device's memory that the counted parts may fill."""
OMITTED = "CUDA context, communication buffers, fragmentation and workspaces are not counted"


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank of a pipeline stage."""

    pipeline_rank: int
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    logits_bytes: int
    temporary_bytes: int

    @property
    def total_bytes(self) -> int:
        """All counted parts."""
        model_bytes = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return model_bytes + self.activations_bytes + self.logits_bytes + self.temporary_bytes

    def fits(self, memory_gib: float) -> bool:
        """Return whether the estimate fits a device of this size, with room for what is not counted."""
        return self.total_bytes <= USABLE_SHARE * memory_gib * GIB


def state_bytes(config: Config) -> int:
    """Return the bytes of the optimizer's state of the whole model, fp32 master weights included."""
    return _sum_over(config, config.optimizer.traits.state_bytes)


def checkpoint_bytes(config: Config) -> int:
    """Return the bytes of a checkpoint: weights, fp32 master weights, and the optimizer's state."""
    return _sum_over(config, config.optimizer.traits.checkpoint_bytes)


def _sum_over(config: Config, bytes_of_a_number: Callable[..., int]) -> int:
    table = [parameter for parameter in parameter_table(config.model) if parameter.is_trained]
    each = {is_matrix: bytes_of_a_number(config.precision.dtype, is_matrix=is_matrix) for is_matrix in (False, True)}
    return sum(each[parameter.is_matrix] * parameter.num_true for parameter in table)


def heaviest_rank(config: Config, layout: Layout) -> MemoryEstimate:
    """Return the estimate of the pipeline rank that needs most, in the phase that needs most."""
    return max(_estimates(config, layout, _ranks_that_differ(config, layout)), key=lambda each: each.total_bytes)


def _ranks_that_differ(config: Config, layout: Layout) -> Sequence[int]:
    """Return the pipeline ranks among which the heaviest is: both ends, and the first between them; or all.

    Those between the ends have equally many layers, unless a layout says each, and every one keeps no more
    micro-batches than the one before it.
    """
    if config.parallel.pipeline_model_parallel_layout is not None:
        return range(layout.pipeline)
    return sorted({0, min(1, layout.pipeline - 1), layout.pipeline - 1})


def estimate_memory(config: Config, layout: Layout) -> tuple[MemoryEstimate, ...]:
    """Estimate the memory of a rank of every pipeline stage, by pipeline rank."""
    return _estimates(config, layout, range(layout.pipeline))


def _estimates(config: Config, layout: Layout, ranks: Sequence[int]) -> tuple[MemoryEstimate, ...]:
    value_bytes = 2 if config.precision.dtype == "bf16" else 4
    dtype, traits = config.precision.dtype, config.optimizer.traits
    of_others, of_matrices = (traits.state_bytes(dtype, is_matrix=is_matrix) for is_matrix in (False, True))
    held = stage_parameters(config.model, layout, layers_per_stage(config))
    return tuple(
        MemoryEstimate(
            pipeline_rank=rank,
            weights_bytes=value_bytes * held[rank].total,
            gradients_bytes=4 * held[rank].total,
            optimizer_bytes=_shared_out(
                of_matrices * held[rank].dense_in_matrices + of_others * held[rank].outside_matrices,
                layout.data * layout.context,
            )
            + _shared_out(of_matrices * held[rank].experts, layout.expert_data),
            **vars(working_memory(config, layout, rank)),
        )
        for rank in ranks
    )


def _shared_out(num_bytes: int, num_ranks: int) -> int:
    """Return the share of one of these ranks, rounded up."""
    return -(-num_bytes // num_ranks)
