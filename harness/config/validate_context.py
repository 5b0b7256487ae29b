"""Rules for ranks that share samples (context parallelism)."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config.model import ModelConfig
from harness.config.nearest import nearest_divisors, one_of
from harness.config.parallel import ParallelConfig
from harness.config.problems import Location, Problem
from harness.config.schema import DataConfig, PhaseConfig, PrecisionConfig


def context_problems(
    model: ModelConfig,
    parallel: ParallelConfig,
    data: DataConfig,
    precision: PrecisionConfig,
    phases: tuple[PhaseConfig, ...],
) -> Iterator[Problem]:
    """Yield the problems of the ways in which ranks that share samples attend."""
    places: list[tuple[Location, ParallelConfig]] = [(("parallel",), parallel)]
    places += [(("phases", index, "parallel"), phase.parallel) for index, phase in enumerate(phases) if phase.parallel]
    for here, each in places:
        if each.context_parallel_size == 1:
            if each.cp_comm_type is not None:
                yield Problem(
                    (*here, "cp_comm_type"),
                    "has no effect with context_parallel_size 1; give that, or remove this",
                )
        elif each.cp_comm_type == "p2p":
            yield from _ring_problems(model, data, precision, here)
        elif each.cp_comm_type == "a2a":
            yield from _exchange_problems(model, each, here)


def _ring_problems(
    model: ModelConfig, data: DataConfig, precision: PrecisionConfig, here: Location
) -> Iterator[Problem]:
    """Check what Transformer Engine's ring is used for: plain causal attention in whole samples, in bf16."""
    reasons = {
        f"precision.dtype {precision.dtype}": precision.dtype != "bf16",
        "data.reset_at_document_borders": data.reset_at_document_borders,
        "model.window_size, softmax_type or attn_logit_softcapping": not model.has_plain_attention,
        "model.multi_latent_attention": model.multi_latent_attention,
    }
    for reason, holds in reasons.items():
        if holds:
            yield Problem(
                (*here, "cp_comm_type"),
                f"p2p is Transformer Engine's ring, which cannot be combined with {reason}; take allgather or a2a",
            )


def _exchange_problems(model: ModelConfig, parallel: ParallelConfig, here: Location) -> Iterator[Problem]:
    """Check that the heads of a tensor-parallel rank can be dealt to the ranks that share samples."""
    size, tensor = parallel.context_parallel_size, parallel.tensor_model_parallel_size
    groups = model.num_attention_heads if model.multi_latent_attention else model.query_groups
    if groups % tensor == 0 and (groups // tensor) % size:
        own = groups // tensor
        yield Problem(
            (*here, "context_parallel_size"),
            f"{size} ranks cannot deal out the {own} groups of heads of a tensor-parallel rank (a2a): take "
            f"{one_of(nearest_divisors(own, size))}, or cp_comm_type allgather",
        )
    elif groups % tensor and groups < tensor:
        yield Problem(
            (*here, "cp_comm_type"),
            f"a2a cannot deal out heads where {tensor} tensor-parallel ranks share {groups} groups; take allgather",
        )
