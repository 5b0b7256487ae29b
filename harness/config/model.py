"""The `model` section of a configuration: the shape of the model, in Megatron's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.config.layer_flags import LayerFlags, all_but_every, from_first_on
from harness.config.rope_scaling import RopeScalingConfig
from harness.config.section import (
    Experts,
    Ids,
    Layers,
    NonNegativeFloat,
    PositiveFloat,
    RotaryShare,
    SampleTokens,
    Section,
    Width,
    Window,
)


class ModelConfig(Section):
    """A decoder-only transformer."""

    num_layers: Layers
    """Transformer layers in the whole model."""
    hidden_size: Width
    """Width of the residual stream."""
    num_attention_heads: Width
    """Query heads."""
    num_query_groups: Width | None = None
    """Key/value heads. Fewer than query heads is GQA, 1 is MQA. Default: as many as query heads."""
    kv_channels: Width | None = None
    """Size of one head. Default: hidden_size / num_attention_heads."""
    multi_latent_attention: bool = False
    """Make keys and values of all heads out of one short latent of the token (MLA, DeepSeek-V2). With `qk_layernorm`
    latents are normalized."""
    q_lora_rank: Width | None = None
    """`multi_latent_attention` only: numbers of the latent that queries are made of. Default: none, queries are made of
    the residual stream (DeepSeek-V2-Lite)."""
    kv_lora_rank: Width = 512
    """`multi_latent_attention` only: numbers of the latent that keys and values are made of."""
    qk_head_dim: Width = 128
    """`multi_latent_attention` only: numbers of a head of queries and keys that do not see positions."""
    qk_pos_emb_head_dim: Width = 64
    """`multi_latent_attention` only: further numbers of such a head, which are rotated; keys of all heads share them.
    Neighbouring numbers rotate together, as in DeepSeek's models."""
    v_head_dim: Width = 128
    """`multi_latent_attention` only: size of a head of values."""
    ffn_hidden_size: Width
    """Inner width of the MLP. In a gated MLP the gate and the up projection have this width each."""
    vocab_size: Ids
    """Size of the vocabulary without padding: token ids are 0 … vocab_size - 1."""
    vocab_size_multiple_of: Width = 128
    """The embedding is padded to a multiple of this, under every layout. Padded rows are neither predicted nor
    trained."""
    scale_embedding: bool = False
    """Multiply what is looked up in the embedding by sqrt(hidden_size) (Gemma)."""
    normalization: Literal["RMSNorm", "LayerNorm"] = "RMSNorm"
    """Normalization before attention, before the MLP and at the end."""
    norm_epsilon: PositiveFloat = 1e-5
    """Added to the variance in every normalization."""
    norm_placement: Literal["before", "behind", "around"] = "before"
    """Norms `before` attention and MLP; `behind` them, on what they add to the stream (OLMo 2); or `around`: both."""
    layernorm_zero_centered_gamma: bool = False
    """Multiply in norms by one plus the weights, which begin at zero (Gemma)."""
    activation: Literal["swiglu", "geglu", "geglu_tanh", "clamped_swiglu", "gelu", "gelu_tanh", "squared_relu"] = (
        "swiglu"
    )
    """Activation of the MLP. `swiglu`, `geglu`, `geglu_tanh` and `clamped_swiglu` are gated. `_tanh`: GELU by its tanh
    approximation (GPT-2, Gemma). `clamped_swiglu`: within bounds, and one plus what the gate is multiplied with
    (gpt-oss). `squared_relu`: the square of what is positive (Nemotron)."""
    untie_embeddings_and_output_weights: bool = True
    """Give the output layer weights of its own. With `false` it uses those of the embedding, which small models gain
    by."""
    final_logit_softcapping: PositiveFloat | None = None
    """Bound that the logits approach: cap · tanh(logit / cap) (Gemma 2: 30). Default: none."""
    add_bias_linear: bool = False
    """Add a bias in every projection of attention and MLP (GPT-2), of routers and experts too (gpt-oss)."""
    add_qkv_bias: bool = False
    """Add a bias in the query, key and value projections only (Qwen2)."""
    qk_layernorm: bool = False
    """Normalize queries and keys before the rotation (Qwen3)."""
    qk_layernorm_over: Literal["head", "width"] = "head"
    """`qk_layernorm` only: each `head` on its own (Qwen3), or all together over their `width` (OLMo 2; RMSNorm)."""
    softmax_scale: PositiveFloat | None = None
    """Factor of attention's scores (Gemma: query_pre_attn_scalar to the power of -1/2). Default: one over the square
    root of the head size."""
    attn_logit_softcapping: PositiveFloat | None = None
    """Bound that attention's scores approach: cap · tanh(score / cap) (Gemma 2: 50). Default: none."""
    softmax_type: Literal["vanilla", "off-by-one", "learnable"] = "vanilla"
    """Attention sinks: one more score in the softmax of each head, which no value stands behind. `learnable`: a
    parameter of each head (gpt-oss). `off-by-one`: 0. `vanilla`: none."""
    window_size: Window | None = None
    """Tokens that a token sees in layers with a window: itself and those right before it (Mistral: 4096; Hugging Face's
    files: `sliding_window`). Default: no layer has a window."""
    window_attn_skip_freq: LayerFlags | None = None
    """Layers with a window: all but every n-th (Gemma 2: 2, Gemma 3: 6); or a number for each layer, 1 with a window
    and 0 without, as a list or as text: `[1]*5+[0]`. Default: every layer, if there is a `window_size`."""
    window_rotary_base: PositiveFloat | None = None
    """Base of the rotary positions in layers with a window, without `rope_scaling` (Gemma 3: 10000). Default: they
    rotate as the other layers do."""
    position_embedding_type: Literal["rope", "learned_absolute"] = "rope"
    """Positions by rotation of queries and keys, or by a learned vector of each that is added to the embedding
    (GPT-2)."""
    max_position_embeddings: SampleTokens | None = None
    """`learned_absolute` only: positions that have a vector; no sample may be longer."""
    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary position embedding (theta)."""
    rotary_percent: RotaryShare = 1.0
    """Share of the numbers of a head that are rotated (GLM-4.5: 0.5); the others do not see positions."""
    rope_scaling: RopeScalingConfig | None = None
    """Scaling of the rotary frequencies for longer sequences. Default: none."""
    num_moe_experts: Experts | None = None
    """Experts in each expert layer, which has them in place of one MLP. Default: none, every layer is dense."""
    moe_layer_freq: LayerFlags = 1
    """Layers with experts: every n-th, from the first on; or a number for each layer, 1 with experts and 0 dense, as a
    list or as text: `[0]*3+[1]*58`."""
    moe_ffn_hidden_size: Width | None = None
    """Inner width of one expert. Default: ffn_hidden_size, which stays the width of dense layers."""
    moe_router_topk: Experts = 2
    """Experts that compute each token."""
    moe_router_score_function: Literal["sigmoid", "softmax"] = "sigmoid"
    """Scores of the experts from the router's logits: a `sigmoid` of each (DeepSeek-V3, GLM-4.5), or a `softmax` over
    them (Mixtral, Qwen3-MoE)."""
    moe_router_pre_softmax: bool = False
    """`softmax` only: over all experts, before the choice, so that weights of a token add up to less than 1 (Qwen2-MoE,
    DeepSeek-V2). Default: over the chosen ones (Mixtral; Qwen3-MoE's `norm_topk_prob`)."""
    moe_router_num_groups: Experts | None = None
    """Groups of experts, of equal size; a token goes to few. Give `moe_router_group_topk` too. Default: none."""
    moe_router_group_topk: Experts | None = None
    """Groups that a token may go to: those with the largest sums of their best scores."""
    moe_router_group_scores: Experts | None = None
    """Scores in such a sum. Default: `moe_router_topk / moe_router_group_topk`, 2 in DeepSeek-V3; DeepSeek-V2 has 1."""
    moe_router_topk_scaling_factor: PositiveFloat = 1.0
    """Factor of the weights with which a token's experts are added up."""
    moe_router_enable_expert_bias: bool = True
    """Balance the experts without an auxiliary loss: a bias of each expert, which only the choice sees, moves after
    each step towards equal numbers of tokens. Needs `sigmoid`."""
    moe_router_bias_update_rate: NonNegativeFloat = 0.001
    """Change of an expert's bias in a step."""
    moe_router_load_balancing_type: Literal["none", "aux_loss", "seq_aux_loss"] = "none"
    """Auxiliary loss that balances the experts, over a micro-batch of a rank (`aux_loss`) or over each sample of it
    (`seq_aux_loss`). It is trained on, but not part of the reported loss."""
    moe_aux_loss_coeff: NonNegativeFloat = 0.0
    """Weight of the auxiliary loss, which is 1 when all experts get equally many tokens."""
    moe_z_loss_coeff: NonNegativeFloat = 0.0
    """Weight of log²Z of the router's softmax (ST-MoE uses 1e-3)."""
    moe_shared_expert_intermediate_size: Width | None = None
    """Inner width of the shared experts together, which compute every token. Default: there are none."""
    moe_shared_expert_gate: bool = False
    """Multiply what the shared experts give with a sigmoid of the token (Qwen2-MoE)."""
    moe_token_dispatcher_type: Literal["alltoall", "allgather"] = "alltoall"
    """Way of the tokens to the ranks of their experts: each to where it is needed, or all to all of them."""
    init_method_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; divided by sqrt(2 · num_layers) in projections into the residual
    stream."""
    z_loss_coefficient: NonNegativeFloat = 0.0
    """Weight of log²Z of the output softmax (PaLM uses 1e-4). It is trained on, but not part of the reported loss."""

    @property
    def head_size(self) -> int:
        """Size of one head of queries and keys."""
        if self.multi_latent_attention:
            return self.qk_head_dim + self.qk_pos_emb_head_dim
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def value_size(self) -> int:
        """Size of one head of values."""
        return self.v_head_dim if self.multi_latent_attention else self.head_size

    @property
    def positional_size(self) -> int:
        """Numbers of a head that go through the rotation, at least in part."""
        return self.qk_pos_emb_head_dim if self.multi_latent_attention else self.head_size

    @property
    def rotary_size(self) -> int:
        """Numbers of a head that are rotated."""
        return int(self.positional_size * self.rotary_percent) if self.position_embedding_type == "rope" else 0

    @property
    def query_groups(self) -> int:
        """Number of key/value heads."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def norms_each_head(self) -> bool:
        """True if heads of queries and keys are normalized, each on its own."""
        return self.qk_layernorm and self.qk_layernorm_over == "head" and not self.multi_latent_attention

    @property
    def gated(self) -> bool:
        """True if the MLP has a gate projection."""
        return self.activation in ("swiglu", "geglu", "geglu_tanh", "clamped_swiglu")

    @property
    def expert_width(self) -> int:
        """Inner width of one expert."""
        return self.moe_ffn_hidden_size or self.ffn_hidden_size

    @property
    def expert_layers(self) -> tuple[bool, ...]:
        """One flag for each layer: True if it has experts."""
        if self.num_moe_experts is None:
            return (False,) * self.num_layers
        return from_first_on(self.moe_layer_freq, self.num_layers)

    @property
    def windowed_layers(self) -> tuple[bool, ...]:
        """One flag for each layer: True if its tokens see a window only."""
        if self.window_size is None:
            return (False,) * self.num_layers
        return all_but_every(self.window_attn_skip_freq, self.num_layers)

    @property
    def has_plain_attention(self) -> bool:
        """True if tokens see all before them in every layer, and scores go into the softmax as they are."""
        rules = (self.window_size, self.attn_logit_softcapping)
        return rules == (None, None) and self.softmax_type == "vanilla"

    @property
    def has_equal_layers(self) -> bool:
        """True if all layers have the same parameters: all have experts, or none has."""
        return len(set(self.expert_layers)) == 1

    def with_layers(self, numbers: Sequence[int]) -> ModelConfig:
        """Return the same model with other layers, each like that layer of this one, counted from 0."""
        changes: dict[str, object] = {"num_layers": len(numbers)}
        if self.num_moe_experts is not None:
            has_experts = [self.expert_layers[number] for number in numbers]
            changes["moe_layer_freq"] = 1 if all(has_experts) else tuple(map(int, has_experts))
        if self.window_size is not None:
            has_window = [self.windowed_layers[number] for number in numbers]
            changes["window_attn_skip_freq"] = None if all(has_window) else tuple(map(int, has_window))
        return self.model_copy(update=changes)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up, the same under every layout."""
        multiple = self.vocab_size_multiple_of
        return (self.vocab_size + multiple - 1) // multiple * multiple
