"""Core attention: torch's fused scaled-dot-product kernels where they know the rules of a layer, tiles elsewhere.

No S×S matrix, on a GPU or a CPU. Shapes: S sequence, B micro batch, T tokens of all samples (B·S), N heads, G of them
with keys and values of their own, D head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.model.attention.blocks import attend_in_two_blocks
from harness.model.attention.bounds import Bounds, Documents, Sequences, Stretch
from harness.model.attention.flash import attend_in_one_launch
from harness.model.attention.rules import Rules
from harness.model.attention.tiles import attend_in_tiles

# cuDNN's kernels are about twice as fast as FlashAttention 2 on Hopper; the rest are fallbacks, in order of speed.
# The kernel that makes an S×S matrix is not among them: it would be taken silently.
_GPU_KERNELS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
_OLDEST_FAST_CUDNN = 91501
_HOPPER = (9, 0)
_PLAIN = Rules()


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


class Attend(Protocol):
    """Causal attention of a rank's tokens, by the rules of a layer, in samples or documents."""

    def __call__(
        self,
        query_SBND: torch.Tensor,
        key_SBGD: torch.Tensor,
        value_SBGD: torch.Tensor,
        documents: Documents | None,
        rules: Rules,
        sinks_N: torch.Tensor | None,
        /,
    ) -> torch.Tensor:
        """Return what each head gives: `[S, B, N, D]`."""


class CoreAttention(nn.Module):
    """Causal attention, in place of Megatron's core attention.

    The arguments are Megatron's; those that do not matter here are ignored.
    """

    def __init__(
        self,
        *,
        rules: Rules | None = None,
        sinks_N: torch.Tensor | None = None,
        softmax_scale: float | None = None,
        attend: Attend | None = None,
        **_megatron_arguments: object,
    ) -> None:
        super().__init__()
        self._attend = attend or attend_in_samples
        self.rules = rules or Rules(scale=softmax_scale)
        self.softmax_offset: torch.Tensor | None
        if isinstance(sinks_N, nn.Parameter):
            self.softmax_offset = sinks_N
        else:
            self.register_buffer("softmax_offset", sinks_N, persistent=False)

    def forward(
        self,
        query_SBND: torch.Tensor,
        key_SBGD: torch.Tensor,
        value_SBGD: torch.Tensor,
        _attention_mask: None = None,
        *,
        packed_seq_params: Any = None,  # noqa: ANN401 (PackedDocuments)
        **_megatron_arguments: Any,  # noqa: ANN401 (mask type and bias: not used here)
    ) -> torch.Tensor:
        """Return attention, `[S, B, N·D]`. G may be smaller than N (GQA).

        A token looks at itself and at all earlier tokens of its sample, or with `packed_seq_params` of its document, as
        far as the window reaches.
        """
        documents = None if packed_seq_params is None else packed_seq_params.documents
        inputs = (query_SBND, key_SBGD, value_SBGD)
        output_SBND = self._attend(*inputs, documents, self.rules, self.softmax_offset)
        return output_SBND.reshape(*query_SBND.shape[:2], -1)


def attend_in_samples(
    query_SBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    documents: Documents | None,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Return causal attention within samples, or documents: `[S, B, N, D]`. All tokens of a sample are here."""
    inputs = (query_SBND, key_SBGD, value_SBGD)
    if documents is None:
        return attend(*inputs, rules, sinks_N)
    return attend_documents(*inputs, documents, rules, sinks_N)


def attend(
    query_SBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    rules: Rules = _PLAIN,
    sinks_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return causal scaled-dot-product attention: `[S, B, N, D]`."""
    length, batch = query_SBND.shape[:2]
    rules = rules.for_length(length)
    if sinks_N is not None or rules.window is not None or rules.cap is not None:
        if _takes_flash(query_SBND, rules):
            starts = torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=query_SBND.device)
            return _by_flash(query_SBND, key_SBGD, value_SBGD, Bounds(starts, length), rules, sinks_N)
        return _in_tiles(query_SBND, key_SBGD, value_SBGD, rules, sinks_N)
    return _fused(query_SBND, key_SBGD, value_SBGD, rules.scale)


def attend_documents(
    query_SBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    documents: Documents,
    rules: Rules = _PLAIN,
    sinks_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return causal attention within documents: `[S, B, N, D]`. Time and memory follow their lengths, not S²."""
    rules = rules.for_length(documents.longest)
    if _takes_flash(query_SBND, rules):
        return _by_flash(query_SBND, key_SBGD, value_SBGD, documents, rules, sinks_N)
    length, batch = query_SBND.shape[:2]
    inputs_TND = [x.transpose(0, 1).flatten(0, 1).unsqueeze(1) for x in (query_SBND, key_SBGD, value_SBGD)]
    # Split, and not sliced: the gradients of all documents are put together once, and not added up one by one.
    inputs = zip(*(torch.split(x, documents.lengths) for x in inputs_TND), strict=True)
    output_TND = torch.cat([attend(q, k, v, rules, sinks_N).squeeze(1) for q, k, v in inputs])
    return output_TND.view(batch, length, *output_TND.shape[1:]).transpose(0, 1)


def attend_stretch(
    query_qBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    stretch: Stretch,
    rules: Rules = _PLAIN,
    sinks_N: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return causal attention of some tokens of every sample, `[q, B, N, D]`, with the keys and values of all."""
    rules = rules.for_length(stretch.sequences.keys.longest)
    if _takes_flash(query_qBND, rules):
        query_TND = query_qBND.transpose(0, 1).flatten(0, 1)
        key_TGD, value_TGD = (_of_samples(x, stretch.keys_by_sample) for x in (key_SBGD, value_SBGD))
        output_TND = attend_in_one_launch(query_TND, key_TGD, value_TGD, stretch.sequences, rules, sinks_N)
        return output_TND.view(-1, len(query_qBND), *output_TND.shape[1:]).transpose(0, 1)
    outputs = []
    for sample, (own, pieces) in enumerate(zip(stretch.keys_by_sample, stretch.pieces_by_sample, strict=True)):
        queries = torch.split(query_qBND[:, sample, None], [piece.num_queries for piece in pieces])
        num_keys = [piece.num_keys for piece in pieces]
        keys, values = (torch.split(x[own, sample, None], num_keys) for x in (key_SBGD, value_SBGD))
        parts = zip(queries, keys, values, strict=True)
        outputs.append(torch.cat([_attend_last(*part, rules, sinks_N) for part in parts]))
    return torch.cat(outputs, dim=1)


def _attend_last(
    query_qBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Return causal attention of the last tokens of a sequence: `[q, B, N, D]`."""
    inputs = (query_qBND, key_SBGD, value_SBGD)
    if len(query_qBND) == len(key_SBGD):
        return attend(*inputs, rules, sinks_N)
    is_plain = rules.for_length(len(key_SBGD)) == Rules(rules.scale) and sinks_N is None
    if is_plain and query_qBND.device.type == "cpu":
        query, key, value = (x.permute(1, 2, 0, 3) for x in inputs)
        return attend_in_two_blocks(query, key, value, rules.scale).permute(2, 0, 1, 3)
    return _in_tiles(*inputs, rules, sinks_N)


def _of_samples(x_SBGD: torch.Tensor, tokens: Sequence[slice]) -> torch.Tensor:
    """Return some tokens of each sample, one sample behind the other: `[T, G, D]`; of a single one as they lie."""
    parts = [x_SBGD[own, sample] for sample, own in enumerate(tokens)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _in_tiles(
    query_qBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    query, key, value = (x.permute(1, 2, 0, 3) for x in (query_qBND, key_SBGD, value_SBGD))
    return attend_in_tiles(query, key, value, rules.for_length(key.size(2)), sinks_N).permute(2, 0, 1, 3)


def _fused(
    query_SBND: torch.Tensor, key_SBGD: torch.Tensor, value_SBGD: torch.Tensor, scale: float | None
) -> torch.Tensor:
    """Attend by torch's fused kernels: all tokens before a token, every score as it is."""
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


def _takes_flash(query_SBND: torch.Tensor, rules: Rules) -> bool:
    """Return whether FlashAttention's kernel for different lengths takes these: on a GPU, not in fp32, no cap."""
    return query_SBND.device.type != "cpu" and query_SBND.dtype is not torch.float32 and rules.cap is None


def _by_flash(
    query_SBND: torch.Tensor,
    key_SBGD: torch.Tensor,
    value_SBGD: torch.Tensor,
    bounds: Bounds,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    length, batch = query_SBND.shape[:2]
    query_TND, key_TGD, value_TGD = (x.transpose(0, 1).flatten(0, 1) for x in (query_SBND, key_SBGD, value_SBGD))
    output_TND = attend_in_one_launch(query_TND, key_TGD, value_TGD, Sequences(bounds, bounds), rules, sinks_N)
    return output_TND.view(batch, length, *output_TND.shape[1:]).transpose(0, 1)
