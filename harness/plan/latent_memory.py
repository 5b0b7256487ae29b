"""Memory of latent attention (MLA), beside what is counted of every layer: see `harness.model.latent`.

Per token and layer a rank keeps for backward (a heads, d size of queries and keys, of which r are rotated, v size of
values, w the larger of d and v, c and l sizes of the latents of queries and of keys and values):

    c + l + r, and c + l    latents, and the same normalized; split over tensor-parallel ranks only with sequence
                            parallelism
    4*w*a                   queries, keys, values and the attention's output, all as wide; always split
    v*a                     the output without what it is wider by, if it is
    1 (LayerNorm: 2)        fp32 number of each norm of a latent

Projections of queries, and of keys and values, are copied into heads and let go.
"""

from __future__ import annotations

from harness.config.model import ModelConfig


def numbers_of_latents(model: ModelConfig, *, recomputes: bool) -> int:
    """Return the numbers that are kept of each token that a rank holds between layers."""
    if not model.multi_latent_attention:
        return 0
    latents = (model.q_lora_rank or 0) + model.kv_lora_rank
    normed = latents if model.qk_layernorm and not recomputes else 0
    return latents + model.qk_pos_emb_head_dim + normed


def numbers_beside_projections(model: ModelConfig) -> int:
    """Return the numbers that are kept of heads, less those that projections give and take of them."""
    size, value_size = model.head_size, model.value_size
    width = max(size, value_size)
    kept = 4 * width + (value_size if width > value_size else 0)
    projected = size + model.qk_head_dim + 2 * value_size
    return model.num_attention_heads * (kept - projected)


def num_norms_of_latents(model: ModelConfig) -> int:
    """Return the norms of latents in a layer."""
    if not (model.multi_latent_attention and model.qk_layernorm):
        return 0
    return 1 if model.q_lora_rank is None else 2
