"""The layers of every pipeline stage, and those of one rank."""

from __future__ import annotations

from harness.config.schema import Config

Stages = tuple[tuple[int, ...], ...]
"""Numbers of layers by [virtual chunk][pipeline rank], in the order in which a token passes them."""


def layers_per_stage(config: Config) -> Stages:
    """Return the layers by [virtual chunk][pipeline rank].

    Even stages share the layers out, of which embedding and loss may each count as one; uneven first and last stages
    leave equal shares to the ranks between them; a layout says each (Megatron-Core: `get_num_layers_to_build`,
    `PipelineParallelLayerLayout`). The configuration must pass `layout_problems`.
    """
    parallel = config.parallel
    num_ranks, num_chunks = parallel.pipeline_model_parallel_size, parallel.num_model_chunks
    first, last = parallel.num_layers_in_first_pipeline_stage, parallel.num_layers_in_last_pipeline_stage
    if parallel.pipeline_model_parallel_layout is not None:
        sizes = [stage.count("t") for stage in parallel.pipeline_model_parallel_layout]
    elif first is None and last is None:
        sizes = [counted_layers(config) // (num_ranks * num_chunks)] * (num_ranks * num_chunks)
        sizes[0] -= parallel.account_for_embedding_in_pipeline_split
        sizes[-1] -= parallel.account_for_loss_in_pipeline_split
    else:
        num_even = num_ranks - (first is not None) - (last is not None)
        num_left = config.model.num_layers - (first or 0) - (last or 0)
        even = [num_left // num_even] * num_even if num_even else []
        sizes = [*((first,) if first else ()), *even, *((last,) if last else ())]
    return tuple(tuple(sizes[start : start + num_ranks]) for start in range(0, len(sizes), num_ranks))


def counted_layers(config: Config) -> int:
    """Return the layers that even stages share out, with embedding and loss where they count as one each."""
    parallel = config.parallel
    ends = parallel.account_for_embedding_in_pipeline_split + parallel.account_for_loss_in_pipeline_split
    return config.model.num_layers + ends


def layers_of_rank(stages: Stages, rank: int) -> tuple[range, ...]:
    """Return the numbers of the layers, from 0, of each model chunk of a pipeline rank."""
    chunks, first = [], 0
    for sizes in stages:
        begin = first + sum(sizes[:rank])
        chunks.append(range(begin, begin + sizes[rank]))
        first += sum(sizes)
    return tuple(chunks)
