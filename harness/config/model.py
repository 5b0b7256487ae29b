"""The `model` section of a configuration: the shape of the model, in Megatron's words."""

from __future__ import annotations

from typing import Literal

from harness.config.rope_scaling import RopeScalingConfig
from harness.config.section import Ids, Layers, NonNegativeFloat, PositiveFloat, Section, Width


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
    activation: Literal["swiglu", "geglu", "geglu_tanh", "gelu", "gelu_tanh", "squared_relu"] = "swiglu"
    """Activation of the MLP. `swiglu`, `geglu` and `geglu_tanh` are gated. `_tanh`: GELU by its tanh approximation
    (GPT-2, Gemma). `squared_relu`: the square of what is positive (Nemotron)."""
    untie_embeddings_and_output_weights: bool = True
    """Give the output layer weights of its own. With `false` it uses those of the embedding, which small models gain
    by."""
    add_bias_linear: bool = False
    """Add a bias in the attention projection and in the MLP (GPT-2)."""
    add_qkv_bias: bool = False
    """Add a bias in the query, key and value projections only (Qwen2)."""
    qk_layernorm: bool = False
    """Normalize queries and keys before the rotation (Qwen3)."""
    qk_layernorm_over: Literal["head", "width"] = "head"
    """`qk_layernorm` only: each `head` on its own (Qwen3), or all together over their `width` (OLMo 2; RMSNorm)."""
    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary position embedding (theta)."""
    rope_scaling: RopeScalingConfig | None = None
    """Scaling of the rotary frequencies for longer sequences. Default: none."""
    init_method_std: PositiveFloat = 0.02
    """Standard deviation of the initial weights; divided by sqrt(2 · num_layers) in projections into the residual
    stream."""
    z_loss_coefficient: NonNegativeFloat = 0.0
    """Weight of log²Z of the output softmax (PaLM uses 1e-4). It is trained on, but not part of the reported loss."""

    @property
    def head_size(self) -> int:
        """Size of one attention head."""
        return self.kv_channels or self.hidden_size // self.num_attention_heads

    @property
    def query_groups(self) -> int:
        """Number of key/value heads."""
        return self.num_query_groups or self.num_attention_heads

    @property
    def norms_each_head(self) -> bool:
        """True if heads of queries and keys are normalized, each on its own."""
        return self.qk_layernorm and self.qk_layernorm_over == "head"

    @property
    def gated(self) -> bool:
        """True if the MLP has a gate projection."""
        return self.activation in ("swiglu", "geglu", "geglu_tanh")

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up, the same under every layout."""
        multiple = self.vocab_size_multiple_of
        return (self.vocab_size + multiple - 1) // multiple * multiple
