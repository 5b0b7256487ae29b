"""The `parallel` section of a configuration: the layout."""

from __future__ import annotations

from typing import Literal

from harness.config.section import Layers, RankCount, Samples, Section


class ParallelConfig(Section):
    """The layout: the cut of the model and of the batch over the ranks. Nothing here changes what is learnt."""

    tensor_model_parallel_size: RankCount = 1
    """Ranks that share every layer. Keep them within a node."""
    pipeline_model_parallel_size: RankCount = 1
    """Ranks that hold consecutive stages of layers."""
    virtual_pipeline_model_parallel_size: Layers | None = None
    """Model chunks of each pipeline rank (interleaved schedule). Needs pipeline_model_parallel_size > 1. Default: one
    chunk."""
    context_parallel_size: RankCount = 1
    """Ranks that share one sequence. Needs Transformer Engine."""
    expert_model_parallel_size: RankCount = 1
    """Ranks that share the experts of a layer. They are taken from tensor-, context- and data-parallel ranks."""
    expert_tensor_parallel_size: RankCount | None = None
    """Ranks that share every expert. Default: tensor_model_parallel_size. 1 is best for narrow experts."""
    data_parallel_size: RankCount | None = None
    """Copies of the model. Default: as many as the number of ranks allows."""
    sequence_parallel: bool = False
    """Divide norms and residuals along the sequence among the ranks of a tensor-parallel group."""
    num_layers_in_first_pipeline_stage: Layers | None = None
    """Layers of the first stage; the others share the rest evenly. Default: all stages are even."""
    num_layers_in_last_pipeline_stage: Layers | None = None
    """Layers of the last stage; the others share the rest evenly. Default: all stages are even."""
    micro_batch_size: Samples = 1
    """Samples that one rank computes at once."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that are recomputed in the backward pass: none; outputs of norms and of the MLP's activation, which
    are a third of the memory and a few percent of the time (`selective`); or those of whole layers (`full`)."""
