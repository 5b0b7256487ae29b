"""Estimate of the memory that a rank needs, part by part, in bytes.

Counted: weights; fp32 main gradients; optimizer state, shared out over data- and context-parallel ranks; activations
that backward needs, for all micro-batches in flight; logits of one micro-batch. Attention is taken to be flash
attention (no S x S matrix). Not counted: CUDA context and communication buffers, the allocator's fragments, short-lived
workspaces, checkpoints being written. Leave about a tenth of the device free for them.

Per token and layer, a rank keeps these numbers in the activation format (h hidden, a heads and g groups of size d,
f MLP width): 4*h of inputs of norms and of the projections after them, split over tensor-parallel ranks only with
sequence parallelism, and (2*a + 2*g)*d + 3*f (2*f if not gated) of queries, keys, values, attention output and MLP,
always split.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.schema import Config, ModelConfig
from harness.parameters.table import parameter_table
from harness.plan.layouts import Layout, layers_per_stage
from harness.plan.parameters import stage_parameters

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

    @property
    def total_bytes(self) -> int:
        """All counted parts."""
        model_bytes = self.weights_bytes + self.gradients_bytes + self.optimizer_bytes
        return model_bytes + self.activations_bytes + self.logits_bytes

    def fits(self, memory_gib: float) -> bool:
        """Return whether the estimate fits a device of this size, with room for what is not counted."""
        return self.total_bytes <= USABLE_SHARE * memory_gib * GIB


def heaviest_rank(config: Config, layout: Layout) -> MemoryEstimate:
    """Return the estimate of the pipeline rank that needs most, in the phase that needs most."""
    return max(estimate_memory(config, layout), key=lambda estimate: estimate.total_bytes)


def estimate_memory(config: Config, layout: Layout) -> tuple[MemoryEstimate, ...]:
    """Estimate the memory of a rank of every pipeline stage, by pipeline rank."""
    stages = layers_per_stage(config)
    value_bytes = 2 if config.precision.dtype == "bf16" else 4
    state_bytes = config.optimizer.kind.state_bytes(config.precision.dtype)
    return tuple(
        MemoryEstimate(
            pipeline_rank=rank,
            weights_bytes=value_bytes * parameters.total,
            gradients_bytes=4 * parameters.total,
            optimizer_bytes=-(-state_bytes * parameters.total // (layout.data * layout.context)),
            activations_bytes=value_bytes * _kept_numbers(config, layout, stages, rank),
            # Logits, and the fp32 softmax that the loss keeps for backward.
            logits_bytes=(value_bytes + 4) * _logits(config, layout) if rank == layout.pipeline - 1 else 0,
        )
        for rank, parameters in enumerate(stage_parameters(config.model, layout, stages))
    )


def layers_in_flight(layout: Layout, stages: tuple[tuple[int, ...], ...], rank: int, num_microbatches: int) -> int:
    """Return the most layers x micro-batches whose activations a pipeline rank keeps at once.

    1F1B: rank r has run `pipeline - r` micro-batches ahead. Interleaved: it has run `2 * (pipeline - r - 1)
    + (chunks - 1) * pipeline + 1` chunks ahead (Megatron-Core: `get_pp_rank_microbatches`).
    """
    if layout.virtual_pipeline == 1:
        return stages[0][rank] * min(layout.pipeline - rank, num_microbatches)
    ahead = 2 * (layout.pipeline - rank - 1) + (layout.virtual_pipeline - 1) * layout.pipeline + 1
    return stages[0][rank] * min(ahead, num_microbatches * layout.virtual_pipeline)


def _kept_numbers(config: Config, layout: Layout, stages: tuple[tuple[int, ...], ...], rank: int) -> int:
    """Return the numbers kept for backward on a rank: of all layers in flight, in the phase that needs most."""
    model, parallel = config.model, config.parallel
    stream_split = layout.tensor if parallel.sequence_parallel else 1
    per_layer = 4 * model.hidden_size // stream_split + _numbers_inside(model) // layout.tensor
    most = 0
    for phase in config.phases:
        num_tokens = parallel.micro_batch_size * phase.seq_length // layout.context
        num_microbatches = max(1, phase.global_batch_size // (parallel.micro_batch_size * layout.data))
        in_flight = layers_in_flight(layout, stages, rank, num_microbatches)
        if parallel.recompute == "full":
            # Each layer keeps its input only; the one that is being recomputed has all of it for a moment.
            kept = in_flight * (model.hidden_size // stream_split) + per_layer
        else:
            # Selective recomputation repeats the core attention, whose flash kernel keeps next to nothing anyway.
            kept = in_flight * per_layer
        most = max(most, num_tokens * kept)
    return most


def _numbers_inside(model: ModelConfig) -> int:
    """Numbers per token between the projections of one layer: what the first of each half gives, the last takes.

    These are the dimensions over which tensor-parallel ranks share the weights.
    """
    return sum(
        parameter.shape[parameter.cut.dim]
        for parameter in parameter_table(model)
        if parameter.layer == 0 and parameter.cut is not None and parameter.num_multiplied
    )


def _logits(config: Config, layout: Layout) -> int:
    """Return the logits of one micro-batch on a rank of the last stage."""
    longest = max(phase.seq_length for phase in config.phases)
    num_tokens = config.parallel.micro_batch_size * longest // layout.context
    return num_tokens * config.model.padded_vocab_size // layout.tensor
