"""Core attention through torch's fused scaled-dot-product kernels: no S×S matrix, on a GPU or a CPU.

Shapes: S sequence, B micro batch, T tokens of all samples (B·S), N heads, G of them with keys and values of their own,
D head size.
"""

from __future__ import annotations

import inspect
import itertools
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

# cuDNN's kernels are about twice as fast as FlashAttention 2 on Hopper; the rest are fallbacks, in order of speed.
# The kernel that makes an S×S matrix is not among them: it would be taken silently.
_GPU_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
_OLDEST_FAST_CUDNN = 91501
_HOPPER = (9, 0)


def slow_kernels(cudnn_version: int | None, capability: tuple[int, int]) -> str | None:
    """Return why attention would be slow on a GPU and what to do; None if it is as fast as torch can make it.

    A version of cuDNN is such as 91501 for 9.15.1, or None if torch was built without it.
    """
    if capability < _HOPPER or (cudnn_version is not None and cudnn_version >= _OLDEST_FAST_CUDNN):
        return None
    loaded = "no cuDNN" if cudnn_version is None else f"cuDNN {_spelled(cudnn_version)}"
    return (
        f"torch has loaded {loaded}; attention on this GPU needs 9.15.1 or newer to be fast (older: about half the "
        "speed). torch 2.11 and newer bring it, but one that stands earlier in LD_LIBRARY_PATH is loaded instead: "
        "take that folder out of LD_LIBRARY_PATH, or update nvidia-cudnn. `harness doctor` shows what is loaded."
    )


def slow_kernels_on(device: torch.device) -> str | None:
    """Return why attention would be slow on this device (see `slow_kernels`); None on a CPU."""
    if device.type != "cuda":
        return None
    loaded: int | None = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    return slow_kernels(loaded, torch.cuda.get_device_capability(device))


def _spelled(cudnn_version: int) -> str:
    return f"{cudnn_version // 10000}.{cudnn_version // 100 % 100}.{cudnn_version % 100}"


@dataclass(frozen=True)
class Documents:
    """The documents of a micro-batch, its samples one behind the other."""

    starts: torch.Tensor
    """Places where they begin, and the number of tokens at the end: `[documents + 1]`, int32, on the device."""
    longest: int
    """Tokens of the longest."""


class CoreAttention(nn.Module):
    """Causal attention, in place of Megatron's core attention.

    The arguments are Megatron's; those that do not matter here are ignored.
    """

    def __init__(self, *, softmax_scale: float | None = None, **_megatron_arguments: object) -> None:
        super().__init__()
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query_SBND: torch.Tensor,
        key_SBGD: torch.Tensor,
        value_SBGD: torch.Tensor,
        _attention_mask: None = None,
        *,
        packed_seq_params: Any = None,  # noqa: ANN401 (Megatron's PackedSeqParams)
        **_megatron_arguments: Any,  # noqa: ANN401 (mask type and bias: not used here)
    ) -> torch.Tensor:
        """Return attention, `[S, B, N·D]`. G may be smaller than N (GQA).

        A token looks at itself and at all earlier tokens of its sample, or with `packed_seq_params` of its document.
        """
        if packed_seq_params is None:
            output_SBND = attend(query_SBND, key_SBGD, value_SBGD, self.softmax_scale)
        else:
            documents = Documents(packed_seq_params.cu_seqlens_q, packed_seq_params.max_seqlen_q)
            output_SBND = attend_documents(query_SBND, key_SBGD, value_SBGD, documents, self.softmax_scale)
        return output_SBND.reshape(*query_SBND.shape[:2], -1)


def attend(
    query_SBND: torch.Tensor, key_SBGD: torch.Tensor, value_SBGD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Return causal scaled-dot-product attention: `[S, B, N, D]`."""
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_SBND, key_SBGD, value_SBGD))
    shares = query.size(1) // key.size(1)
    if shares > 1 and query.device.type == "cuda" and query.dtype is torch.float32:
        # What is left for fp32, the memory-efficient kernel, knows no shared keys and values.
        key, value = (x.repeat_interleave(shares, dim=1) for x in (key, value))
        shares = 1
    kernels = sdpa_kernel(_GPU_KERNELS, set_priority=True) if query.device.type == "cuda" else nullcontext()
    with kernels:
        output_BNSD = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=shares > 1
        )
    return output_BNSD.permute(2, 0, 1, 3)


def attend_documents(
    query_SBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    documents: Documents,
    scale: float | None,
) -> torch.Tensor:
    """Return causal attention within documents: `[S, B, N, D]`. Time and memory follow their lengths, not S²."""
    length, batch = query_SBND.shape[:2]
    query_TND, key_TGD, value_TGD = (x.transpose(0, 1).flatten(0, 1) for x in (query_SBND, key_SBGD, value_SBGD))
    in_one_launch = query_SBND.device.type != "cpu" and query_SBND.dtype is not torch.float32
    attention = _all_at_once if in_one_launch else _one_by_one
    output_TND = attention(query_TND, key_TGD, value_TGD, documents, scale)
    return output_TND.view(batch, length, *output_TND.shape[1:]).transpose(0, 1)


def _all_at_once(
    query_TND: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, documents: Documents, scale: float | None
) -> torch.Tensor:
    """FlashAttention's kernel for sequences of different length; it knows shared keys and values."""
    from torch.nn.attention import varlen

    # torch 2.13 wants to be told of shared keys and values, torch 2.11 takes them as they come.
    asks = "enable_gqa" in inspect.signature(varlen.varlen_attn).parameters
    told: dict[str, Any] = {"enable_gqa": True} if asks else {}
    starts, longest = documents.starts, documents.longest
    output = varlen.varlen_attn(
        *(query_TND, key_TGD, value_TGD, starts, starts, longest, longest), scale=scale, window_size=(-1, 0), **told
    )
    assert isinstance(output, torch.Tensor), "nothing beside the output was asked for"
    return output


def _one_by_one(
    query_TND: torch.Tensor, key_TGD: torch.Tensor, value_TGD: torch.Tensor, documents: Documents, scale: float | None
) -> torch.Tensor:
    """On a CPU, and for fp32, which no kernel for different lengths takes."""
    starts = documents.starts.tolist()
    slices = [slice(start, end) for start, end in itertools.pairwise(starts)]
    outputs = [attend(query_TND[own, None], key_TGD[own, None], value_TGD[own, None], scale)[:, 0] for own in slices]
    return torch.cat(outputs)
