"""Lists the layouts that a number of GPUs allows for a model, the most promising first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from harness.config.batch_sizes import batch_sizes
from harness.config.nearest import divisors
from harness.config.parallel import ParallelConfig
from harness.config.schema import Config
from harness.plan.axes import COPY_AXES
from harness.plan.layouts import Layout, layout_problems, make_layout
from harness.plan.memory import MemoryEstimate, heaviest_rank

RULE_OF_THUMB = (
    "what fits comes first, then no recomputation, or as little as it takes, then the least splitting; "
    "tensor parallelism stays within a node, and a pipeline is charged for its bubble"
)
Recomputation = Literal["none", "selective", "full"]
_RECOMPUTATIONS: tuple[Recomputation, ...] = ("none", "selective", "full")
"""By what they cost."""
_TENSOR_COST = 0.04
"""Share of the step that doubling the tensor-parallel size is charged with. A guess within a node, to order by."""


@dataclass(frozen=True, kw_only=True)
class LayoutChoice:
    """A legal layout with the settings that go with it."""

    layout: Layout
    sequence_parallel: bool
    recompute: Recomputation
    memory: MemoryEstimate
    """Of the heaviest rank."""
    fits: bool
    bubble: float
    """Share of a step that a pipeline rank waits."""


def legal_layouts(config: Config, num_gpus: int, memory_gib: float = 79, gpus_per_node: int = 8) -> list[LayoutChoice]:
    """List the layouts of `config` on `num_gpus` GPUs, best guess first (see `RULE_OF_THUMB`).

    Micro-batch size and context parallelism are taken as given; stages are even and not interleaved. More recomputation
    than the configuration's is listed only where the layout does not fit without it.
    """
    in_shared_layout = tuple(phase for phase in config.phases if phase.parallel is None)
    config = config.model_copy(update={"phases": in_shared_layout or config.phases})
    choices = []
    for tensor in range(1, min(num_gpus, gpus_per_node) + 1):
        for pipeline in divisors(config.model.num_layers):  # of even stages
            if tensor * pipeline > num_gpus:
                break
            candidate = _with_sizes(config, tensor, pipeline)
            if layout_problems(candidate, num_gpus):
                continue
            for parallel in _with_more_recomputation(candidate.parallel):
                choice = _choice(candidate.model_copy(update={"parallel": parallel}), num_gpus, memory_gib)
                choices.append(choice)
                if choice.fits:
                    break
    return sorted(choices, key=_order)


def pipeline_bubble(layout: Layout, num_microbatches: int) -> float:
    """Return the share of a step that a pipeline rank waits: `(p - 1) / (m * v + p - 1)`."""
    waiting = layout.pipeline - 1
    return waiting / (num_microbatches * layout.virtual_pipeline + waiting)


def _order(choice: LayoutChoice) -> tuple[bool, int, int, float]:
    layout = choice.layout
    splits = math.prod(layout.sizes(COPY_AXES).values())
    cost = choice.bubble + _TENSOR_COST * math.log2(layout.tensor)
    return (not choice.fits, _RECOMPUTATIONS.index(choice.recompute), splits, cost)


def _choice(config: Config, num_gpus: int, memory_gib: float) -> LayoutChoice:
    layout = make_layout(config, num_gpus)
    memory = heaviest_rank(config, layout)
    smallest = min(batch_sizes(phase).smallest for phase in config.phases)
    fewest = smallest // (config.parallel.micro_batch_size * layout.data)
    return LayoutChoice(
        layout=layout,
        sequence_parallel=config.parallel.sequence_parallel,
        recompute=config.parallel.recomputation,
        memory=memory,
        fits=memory.fits(memory_gib),
        bubble=pipeline_bubble(layout, fewest),
    )


def _with_more_recomputation(parallel: ParallelConfig) -> list[ParallelConfig]:
    """Return the settings as they are, then those of each granularity that recomputes more, without a choice in it."""
    more = _RECOMPUTATIONS[_RECOMPUTATIONS.index(parallel.recomputation) + 1 :]
    plain = parallel.model_copy(update=dict.fromkeys(("recompute", "recompute_modules")))
    return [parallel, *(plain.model_copy(update={"recompute_granularity": granularity}) for granularity in more)]


def _with_sizes(config: Config, tensor: int, pipeline: int) -> Config:
    given = config.parallel
    parallel = ParallelConfig(
        tensor_model_parallel_size=tensor,
        pipeline_model_parallel_size=pipeline,
        context_parallel_size=given.context_parallel_size,
        sequence_parallel=tensor > 1,
        micro_batch_size=given.micro_batch_size,
        expert_model_parallel_size=given.expert_model_parallel_size,
        expert_tensor_parallel_size=given.expert_tensor_parallel_size,
        recompute_granularity=None if given.recomputation == "none" else given.recomputation,
        recompute_modules=given.recompute_modules,
        recompute_method=given.recompute_method,
        recompute_num_layers=given.recompute_num_layers,
    )
    return config.model_copy(update={"parallel": parallel})
