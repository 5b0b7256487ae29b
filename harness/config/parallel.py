"""The `parallel` section of a configuration: the layout."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness.config.pipeline_layout import PipelineLayout
from harness.config.section import Layers, RankCount, Samples, Section

RecomputedModule = Literal[
    "core_attn", "layernorm", "mlp", "mlp_act", "moe", "moe_act", "shared_experts", "mla_up_proj"
]
CpCommType = Literal["p2p", "allgather", "a2a"]
CHEAP_MODULES = frozenset(("layernorm", "mlp_act", "moe_act"))
"""Modules that are recomputed if none are named: what they give is kept by the products behind them, and cheap."""


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
    """Ranks that share every sample: each computes the tokens of two slices of it."""
    cp_comm_type: CpCommType | None = None
    """Attention of ranks that share samples. `allgather`: each gathers the keys and values of all tokens (as Llama 3
    was trained); `a2a`: they exchange tokens for heads, and each attends from all tokens in its part of the heads
    (Ulysses); `p2p`: Transformer Engine's ring, which knows neither documents nor windows. Default: `p2p` where
    Transformer Engine's attention is used, `allgather` elsewhere."""
    expert_model_parallel_size: RankCount = 1
    """Ranks that share the experts of a layer. They are taken from tensor-, context- and data-parallel ranks."""
    expert_tensor_parallel_size: RankCount | None = None
    """Ranks that share every expert. Default: tensor_model_parallel_size. 1 is best for narrow experts."""
    data_parallel_size: RankCount | None = None
    """Copies of the model. Default: as many as the number of ranks allows."""
    sequence_parallel: bool = False
    """Divide norms and residuals along the sequence among the ranks of a tensor-parallel group."""
    pipeline_model_parallel_layout: PipelineLayout | None = None
    """Layers of every stage, for uneven pipelines: `Et*3|(tt|)*29L`, of E (embedding), t (layer), L (loss) and | (next
    stage). Stages beyond `pipeline_model_parallel_size` are further model chunks of the same ranks. Or a list of
    stages, each such text or a list of `embedding`, `decoder` and `loss`. Default: all stages are even."""
    num_layers_in_first_pipeline_stage: Layers | None = None
    """Layers of the first stage; the others share the rest evenly. Default: all stages are even."""
    num_layers_in_last_pipeline_stage: Layers | None = None
    """Layers of the last stage; the others share the rest evenly. Default: all stages are even."""
    account_for_embedding_in_pipeline_split: bool = False
    """Count the embedding as a layer, so that the first stage has one layer less than the others."""
    account_for_loss_in_pipeline_split: bool = False
    """Count the output layer as a layer, so that the last stage has one layer less than the others."""
    micro_batch_size: Samples = 1
    """Samples that one rank computes at once."""
    recompute_granularity: Literal["selective", "full"] | None = None
    """Activations that are recomputed in the backward pass: those of some modules of every layer (`selective`), or of
    whole layers (`full`). Default: none."""
    recompute_modules: tuple[RecomputedModule, ...] | None = Field(default=None, min_length=1, strict=False)
    """`selective` only: what is recomputed. `layernorm`: outputs of the norms in front of attention and MLP. `mlp_act`,
    `moe_act`: outputs of the activation, in MLPs and shared experts, and in experts. `core_attn`: attention between its
    projections. `mlp`, `moe`, `shared_experts`: all of a dense MLP, of a layer's experts with their router, of its
    shared experts. Default: `layernorm`, `mlp_act` and `moe_act`, which are a third of the memory and a few percent of
    the time."""
    recompute_method: Literal["uniform", "block"] | None = None
    """`full` only: recompute all layers, in units of `recompute_num_layers` of which only the input is kept
    (`uniform`); or each of the first `recompute_num_layers` layers of every model chunk, and no other (`block`).
    Default: `uniform`."""
    recompute_num_layers: Layers | None = None
    """`full` only: layers of a unit (`uniform`), or of a model chunk that are recomputed (`block`). Default: 1."""
    recompute: Literal["none", "selective", "full"] | None = None
    """Another spelling of `recompute_granularity`, in which `none` can be written out. Give one of the two."""

    @property
    def num_model_chunks(self) -> int:
        """Model chunks of each pipeline rank: 1 without an interleaved schedule."""
        if self.pipeline_model_parallel_layout is None:
            return self.virtual_pipeline_model_parallel_size or 1
        return max(1, len(self.pipeline_model_parallel_layout) // self.pipeline_model_parallel_size)

    @property
    def recomputation(self) -> Literal["none", "selective", "full"]:
        """Activations that are recomputed."""
        return self.recompute_granularity or self.recompute or "none"

    @property
    def recomputed_modules(self) -> frozenset[str]:
        """Modules of each layer that are recomputed on their own; empty unless recomputation is selective."""
        if self.recomputation != "selective":
            return frozenset()
        return CHEAP_MODULES if self.recompute_modules is None else frozenset(self.recompute_modules)

    def num_recomputed(self, num_layers: int) -> int:
        """Return how many of the layers of a model chunk are recomputed as a whole: all, or the first ones."""
        if self.recomputation != "full":
            return 0
        return min(num_layers, self.recompute_num_layers or 1) if self.recompute_method == "block" else num_layers

    @property
    def recomputes_mtp_layers(self) -> bool:
        """True if modules that predict further tokens are recomputed whole: as layers are, but not with `block`."""
        return self.recomputation == "full" and self.recompute_method != "block"

    @property
    def layers_of_unit(self) -> int:
        """Layers that are recomputed together, from the input of the first."""
        return 1 if self.recompute_method == "block" else self.recompute_num_layers or 1
