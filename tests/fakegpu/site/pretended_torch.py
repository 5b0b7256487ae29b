"""cuDNN's attention for a GPU that computes nothing: outputs of the right shapes.

torch's choice of the kernel is real. Only the call of cuDNN is replaced: it would ask the device to compile an engine.
"""

import warnings

import torch

_library = torch.library.Library("aten", "IMPL")


def forward(  # noqa: ANN201, PLR0913 (torch's signature)
    query,  # noqa: ANN001
    key,  # noqa: ANN001
    value,  # noqa: ANN001
    attn_bias,  # noqa: ANN001
    compute_log_sumexp,  # noqa: ANN001
    dropout_p=0.0,  # noqa: ANN001
    is_causal=False,  # noqa: ANN001
    return_debug_mask=False,  # noqa: ANN001
    *,
    scale=None,  # noqa: ANN001
):
    """Return output, log-sum-exp, and the rest of what torch keeps for the backward pass."""
    batch, heads, length, size = query.shape
    output = torch.empty_like(query) if value.shape[-1] == size else query.new_empty(*query.shape[:-1], value.shape[-1])
    kept = (batch, heads, length, 1) if compute_log_sumexp else (0,)
    log_sumexp = torch.empty(kept, dtype=torch.float32, device=query.device)
    seed, offset = (torch.empty((), dtype=torch.int64, device=query.device) for _ in range(2))
    return output, log_sumexp, None, None, length, key.shape[2], seed, offset, query.new_empty(0)


def backward(grad_out, query, key, value, *rest, scale=None):  # noqa: ANN001, ANN002, ANN201
    """Return the gradients, beside the fp32 workspace that cuDNN takes for that of the queries."""
    workspace = torch.empty(query.shape, dtype=torch.float32, device=query.device)
    gradients = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    del workspace
    return gradients


def change(module):  # noqa: ANN001, ANN201
    """Put both in the place of cuDNN's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is replaced, which is meant
        _library.impl("_scaled_dot_product_cudnn_attention", forward, "CUDA")
        _library.impl("_scaled_dot_product_cudnn_attention_backward", backward, "CUDA")
