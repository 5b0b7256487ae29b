"""Transformer Engine without cuDNN's attention: it asks the library itself, which has no device to speak to.

It then takes its own attention of single products, which would make an S×S matrix; torch's, whose cuDNN is pretended,
is called in its place. All other modules run as they are.
"""


def change_choice(module):  # noqa: ANN001, ANN201
    """Let cuDNN have no kernel for any attention."""
    none = int(module.tex.NVTE_Fused_Attn_Backend.NVTE_No_Backend)
    module._get_fused_attn_backend = lambda **_attention: (none, "cuDNN is pretended")


def change_attention(module):  # noqa: ANN001, ANN201
    """Replace the attention of single products, for tensors whose sequence comes first."""
    from torch.nn import functional

    def forward(_self, _cache, query, key, value, *_rest, **_settings):  # noqa: ANN001, ANN002, ANN003, ANN202
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        output = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return output.permute(2, 0, 1, 3).flatten(2)

    module.UnfusedDotProductAttention.forward = forward
