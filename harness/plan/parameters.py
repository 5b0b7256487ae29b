"""Counts the parameters of a model: in all, by layer and on each rank.

The parts follow Megatron-Core's GPT model: fused query-key-value and gate-up projections, two norms per layer, one
final norm, rotary positions (no parameters), and an output layer without bias that may share the embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.config.schema import ModelConfig
from harness.plan.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model, with the true vocabulary unless a name says padded."""

    embedding: int
    attention_per_layer: int
    mlp_per_layer: int
    norms_per_layer: int
    num_layers: int
    final_norm: int
    output: int
    """Output layer; 0 where it shares the embedding."""
    padding: int
    """Parameters of the padded rows of embedding and output layer, which never learn."""

    @property
    def per_layer(self) -> int:
        """Parameters of one transformer layer."""
        return self.attention_per_layer + self.mlp_per_layer + self.norms_per_layer

    @property
    def total(self) -> int:
        """Parameters of the model as one publishes it."""
        return self.embedding + self.num_layers * self.per_layer + self.final_norm + self.output

    @property
    def padded_total(self) -> int:
        """Parameters that are held in memory over all ranks of one copy."""
        return self.total + self.padding


@dataclass(frozen=True, kw_only=True)
class RankParameters:
    """Parameters that one rank holds, padded rows included."""

    split: int
    """Its share of what tensor parallelism splits."""
    replicated: int
    """Parameters that every tensor-parallel rank holds: norms, and biases of row-parallel layers."""

    @property
    def total(self) -> int:
        """All parameters on the rank."""
        return self.split + self.replicated


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of a model by its parts."""
    matrices = 1 + model.untie_embeddings_and_output_weights
    return ParameterCount(
        embedding=model.vocab_size * model.hidden_size,
        attention_per_layer=_attention_split(model) + _projection_bias(model) + _qk_norms(model),
        mlp_per_layer=_mlp_split(model) + _projection_bias(model),
        norms_per_layer=2 * _norm(model, model.hidden_size),
        num_layers=model.num_layers,
        final_norm=_norm(model, model.hidden_size),
        output=(matrices - 1) * model.vocab_size * model.hidden_size,
        padding=matrices * (model.padded_vocab_size - model.vocab_size) * model.hidden_size,
    )


def stage_parameters(
    model: ModelConfig, layout: Layout, layers_per_stage: tuple[tuple[int, ...], ...]
) -> tuple[RankParameters, ...]:
    """Return the parameters on a rank of every pipeline stage, all of its model chunks together, by pipeline rank.

    A tied output layer on another stage than the embedding is a second copy of it.
    """
    embedding = model.padded_vocab_size * model.hidden_size // layout.tensor
    layer_split = (_attention_split(model) + _mlp_split(model)) // layout.tensor
    layer_replicated = 2 * _projection_bias(model) + _qk_norms(model) + 2 * _norm(model, model.hidden_size)
    stages = []
    for rank in range(layout.pipeline):
        first, last = rank == 0, rank == layout.pipeline - 1
        num_layers = sum(chunk[rank] for chunk in layers_per_stage)
        shares_embedding = first and not model.untie_embeddings_and_output_weights
        num_embeddings = int(first) + int(last and not shares_embedding)
        stages.append(
            RankParameters(
                split=num_layers * layer_split + num_embeddings * embedding,
                replicated=num_layers * layer_replicated + (_norm(model, model.hidden_size) if last else 0),
            )
        )
    return tuple(stages)


def matmul_parameters_per_layer(model: ModelConfig) -> int:
    """Return the weights of one layer that multiply a token: attention projections and MLP, without biases."""
    query_and_output = 2 * model.hidden_size * model.num_attention_heads * model.head_size
    key_and_value = 2 * model.hidden_size * model.query_groups * model.head_size
    return query_and_output + key_and_value + _mlp_matrices(model) * model.hidden_size * model.ffn_hidden_size


def _mlp_matrices(model: ModelConfig) -> int:
    return 3 if model.gated else 2


def _attention_split(model: ModelConfig) -> int:
    """Return the attention parameters that tensor parallelism splits: projections, and query-key-value bias."""
    heads_and_groups = model.num_attention_heads + 2 * model.query_groups
    weights = model.hidden_size * model.head_size * (heads_and_groups + model.num_attention_heads)
    has_bias = model.add_qkv_bias or model.add_bias_linear
    return weights + (heads_and_groups * model.head_size if has_bias else 0)


def _mlp_split(model: ModelConfig) -> int:
    """Return the MLP parameters that tensor parallelism splits: projections, and the bias of the first."""
    matrices = _mlp_matrices(model)
    bias = (matrices - 1) * model.ffn_hidden_size if model.add_bias_linear else 0
    return matrices * model.hidden_size * model.ffn_hidden_size + bias


def _projection_bias(model: ModelConfig) -> int:
    """Bias of a projection back into the residual stream (one in attention, one in the MLP)."""
    return model.hidden_size if model.add_bias_linear else 0


def _qk_norms(model: ModelConfig) -> int:
    return 2 * _norm(model, model.head_size) if model.qk_layernorm else 0


def _norm(model: ModelConfig, size: int) -> int:
    return 2 * size if model.normalization == "LayerNorm" else size
