"""The settings of a model on which its parameters depend; `harness.config.schema.ModelConfig` has them all."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol


class ModelShape(Hashable, Protocol):
    """Describes a model's parameters. Every property means what the field of that name means in a configuration."""

    @property
    def num_layers(self) -> int:
        """Transformer layers."""

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""

    @property
    def num_attention_heads(self) -> int:
        """Query heads."""

    @property
    def query_groups(self) -> int:
        """Key/value heads."""

    @property
    def head_size(self) -> int:
        """Size of one head of queries and keys."""

    @property
    def value_size(self) -> int:
        """Size of one head of values."""

    @property
    def multi_latent_attention(self) -> bool:
        """True if queries, keys and values are made of latents."""

    @property
    def q_lora_rank(self) -> int | None:
        """Size of the latent that queries are made of; None if they are made of the stream itself."""

    @property
    def kv_lora_rank(self) -> int:
        """Size of the latent of keys and values."""

    @property
    def qk_head_dim(self) -> int:
        """Numbers of a head of queries and keys that are not rotated."""

    @property
    def qk_pos_emb_head_dim(self) -> int:
        """Numbers of a head of queries and keys that are rotated."""

    @property
    def ffn_hidden_size(self) -> int:
        """Inner width of the MLP."""

    @property
    def gated(self) -> bool:
        """True if the first projection of the MLP is gate and up projection in one."""

    @property
    def expert_layers(self) -> tuple[bool, ...]:
        """One flag for each layer: True if it has experts."""

    @property
    def num_moe_experts(self) -> int | None:
        """Experts of each such layer."""

    @property
    def expert_width(self) -> int:
        """Inner width of one expert."""

    @property
    def moe_router_topk(self) -> int:
        """Experts that compute each token."""

    @property
    def moe_router_enable_expert_bias(self) -> bool:
        """True if experts have a bias for the router's choice."""

    @property
    def moe_shared_expert_intermediate_size(self) -> int | None:
        """Inner width of the shared experts together."""

    @property
    def moe_shared_expert_gate(self) -> bool:
        """True if shared experts have a gate."""

    @property
    def num_mtp_modules(self) -> int:
        """Modules that predict further tokens, each with a layer like the last one."""

    @property
    def vocab_size(self) -> int:
        """True vocabulary."""

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding."""

    @property
    def normalization(self) -> str:
        """`RMSNorm` or `LayerNorm`; only the latter has a bias."""

    @property
    def norm_placement(self) -> str:
        """`before` attention and MLP, `behind` them, or `around` them."""

    @property
    def layernorm_zero_centered_gamma(self) -> bool:
        """True if norms multiply by one plus their weights."""

    @property
    def untie_embeddings_and_output_weights(self) -> bool:
        """True if the output layer has weights of its own."""

    @property
    def add_bias_linear(self) -> bool:
        """True if every projection of a layer has a bias."""

    @property
    def add_qkv_bias(self) -> bool:
        """True if the projection of queries, keys and values has a bias."""

    @property
    def qk_layernorm(self) -> bool:
        """True if queries and keys are normalized."""

    @property
    def qk_layernorm_over(self) -> str:
        """`head` if each head is normalized on its own, `width` if all are together."""

    @property
    def softmax_type(self) -> str:
        """`learnable` if each head has a sink."""

    @property
    def position_embedding_type(self) -> str:
        """`learned_absolute` if each position has a vector."""

    @property
    def max_position_embeddings(self) -> int | None:
        """Positions that have one."""

    @property
    def init_method_std(self) -> float:
        """Standard deviation of the initial weights."""
