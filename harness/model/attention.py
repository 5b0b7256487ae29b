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
_GPU_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


class SdpaCoreAttention(nn.Module):
    """Rotary embedding and causal attention, in the place of Megatron's core attention.

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
        segment_ids_BS: torch.Tensor | None,
        **_megatron_arguments: Any,  # noqa: ANN401 (mask type, bias, packing: not used here)
    ) -> torch.Tensor:
        """Attends causally, within a segment where segments are given.

        Args:
            query_SBND: Queries.
            key_SBND: Keys; N may be smaller than the queries' (grouped-query attention).
            value_SBND: Values, like the keys.
            segment_ids_BS: Document number of every token, in Megatron's place for an attention mask. None attends
                across document borders.

        Returns:
            `[S, B, N·D]`.
        """
        length, batch = query_SBND.shape[:2]
        query, key, value = (
            x.permute(1, 2, 0, 3) for x in (self.rotation(query_SBND), self.rotation(key_SBND), value_SBND)
        )
        mask = None if segment_ids_BS is None else causal_segments(segment_ids_BS)
        arguments: dict[str, Any] = {
            "attn_mask": mask,
            "is_causal": mask is None,
            "scale": self.softmax_scale,
            "enable_gqa": key.size(1) != query.size(1),
        }
        if query.device.type == "cuda":
            with sdpa_kernel(_GPU_KERNELS, set_priority=True):
                output = functional.scaled_dot_product_attention(query, key, value, **arguments)
        else:
            output = functional.scaled_dot_product_attention(query, key, value, **arguments)
        return output.permute(2, 0, 1, 3).reshape(length, batch, -1)


def causal_segments(segment_ids_BS: torch.Tensor) -> torch.Tensor:
    """True where a token may look: at itself and earlier tokens of its own segment. `[B, 1, S, S]`."""
    length = segment_ids_BS.size(1)
    same = segment_ids_BS[:, :, None] == segment_ids_BS[:, None, :]
    earlier = torch.ones(length, length, dtype=torch.bool, device=segment_ids_BS.device).tril()
    return (same & earlier)[:, None]
