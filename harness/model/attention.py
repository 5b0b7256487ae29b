"""Core attention through torch's fused scaled-dot-product kernels: no S×S matrix, on a GPU or a CPU.

Shapes: S sequence, B micro batch, N heads, D head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.model.rotary import Rotation

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


class SdpaCoreAttention(nn.Module):
    """Rotary embedding and causal attention, in place of Megatron's core attention.

    The rotation happens here and not in Megatron's attention, because Megatron's unfused one recomputes its tables in
    every layer. The arguments after `rotation` are Megatron's; those that do not matter here are ignored.
    """

    def __init__(
        self, *, rotation: Rotation, softmax_scale: float | None = None, **_megatron_arguments: object
    ) -> None:
        super().__init__()
        self.rotation = rotation
        self.softmax_scale = softmax_scale

    def forward(
        self,
        query_SBND: torch.Tensor,
        key_SBND: torch.Tensor,
        value_SBND: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **_megatron_arguments: Any,  # noqa: ANN401 (mask type, bias, packing: not used here)
    ) -> torch.Tensor:
        """Return attention, `[S, B, N·D]`. N of keys and values may be smaller than that of the queries (GQA).

        The mask is True where a token may look, `[B, 1, S, S]` (see `causal_segments`); with None it looks at itself
        and all earlier tokens.
        """
        length, batch = query_SBND.shape[:2]
        query, key, value = (
            x.permute(1, 2, 0, 3) for x in (self.rotation(query_SBND), self.rotation(key_SBND), value_SBND)
        )
        if query.device.type == "cuda":
            with sdpa_kernel(_GPU_KERNELS, set_priority=True):
                output = attend(query, key, value, attention_mask, self.softmax_scale)
        else:
            output = attend(query, key, value, attention_mask, self.softmax_scale)
        return output.permute(2, 0, 1, 3).reshape(length, batch, -1)


def attend(
    query_BNSD: torch.Tensor,
    key_BNSD: torch.Tensor,
    value_BNSD: torch.Tensor,
    mask_B1SS: torch.Tensor | None,
    scale: float | None,
) -> torch.Tensor:
    """Return scaled-dot-product attention, causal without a mask: `[B, N, S, D]`."""
    shares = query_BNSD.size(1) // key_BNSD.size(1)
    if shares > 1 and query_BNSD.device.type == "cuda" and (mask_B1SS is not None or query_BNSD.dtype is torch.float32):
        # What is left for masks and for fp32 (the memory-efficient kernel) knows no shared keys and values.
        key_BNSD, value_BNSD = (x.repeat_interleave(shares, dim=1) for x in (key_BNSD, value_BNSD))
        shares = 1
    return functional.scaled_dot_product_attention(
        query_BNSD,
        key_BNSD,
        value_BNSD,
        attn_mask=mask_B1SS,
        is_causal=mask_B1SS is None,
        scale=scale,
        enable_gqa=shares > 1,
    )


def rotated(core_attention: type[Any], rotation: Rotation) -> type[Any]:
    """Return a core attention that rotates queries and keys, then does what `core_attention` does.

    For core attentions that are not ours (Transformer Engine's), so that every one sees the same positions.
    """

    class RotatedCoreAttention(core_attention):  # type: ignore[misc]
        def forward(
            self,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            *arguments: Any,  # noqa: ANN401 (Megatron's)
            **keywords: Any,  # noqa: ANN401
        ) -> torch.Tensor:
            output: torch.Tensor = super().forward(rotation(query), rotation(key), value, *arguments, **keywords)
            return output

    return RotatedCoreAttention


def causal_segments(segment_ids_BS: torch.Tensor) -> torch.Tensor:
    """Return a mask, True where a token may attend: to itself and earlier tokens of its segment. `[B, 1, S, S]`."""
    length = segment_ids_BS.size(1)
    same = segment_ids_BS[:, :, None] == segment_ids_BS[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BS.device).tril()
    return (same & earlier)[:, None]
