"""Splits fused tensors into Hugging Face's and joins them again: pure functions on tensors.

Shapes: E experts, H hidden, N query heads, G query groups (key/value heads), D head size, F inner width of an MLP, V
true vocabulary, P padded vocabulary. A bias has the same leading dimension and no H. Every function works on `meta`
tensors too, so that shapes can be planned.

Megatron's fused query-key-value projection is `[G·(N/G + 2)·D, H]`: for each group its queries, then its key, then its
value. The gated first projection is `[2·F, H]`: the gate, then the up projection. Both are in this order in a
checkpoint, under any tensor-parallel size that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from harness.config.model import ModelConfig

Split = Callable[[torch.Tensor, ModelConfig], tuple[torch.Tensor, ...]]
Join = Callable[[Sequence[torch.Tensor], ModelConfig], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """One tensor of ours as several of theirs: `split` and `join` undo each other exactly."""

    split: Split
    join: Join


def in_their_order(heads: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    """Order the numbers of heads `[heads·D, …]` as models do that rotate only the first R of each.

    Ours begin each half of a head with half of the rotated numbers (see `harness.model.rotary`); theirs begin the head
    with all of them. Scores do not change if queries and keys are ordered alike.
    """
    return _reordered(heads, _rotated_first(model), model)


def in_our_order(heads: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    """Order the numbers of heads as ours are: the inverse of `in_their_order`."""
    return _reordered(heads, _rotated_first(model).argsort(), model)


def _rotated_first(model: ModelConfig) -> torch.Tensor:
    """Return where each number of their heads stands in ours, `[D]`."""
    half, rotated = model.head_size // 2, model.rotary_size // 2
    first, second = torch.arange(half), torch.arange(half, 2 * half)
    return torch.cat((first[:rotated], second[:rotated], first[rotated:], second[rotated:]))


def _reordered(heads: torch.Tensor, places_D: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    if model.rotary_size == model.head_size:
        return heads
    by_head = heads.reshape(-1, model.head_size, *heads.shape[1:])
    return by_head[:, places_D].reshape(heads.shape)


def split_qkv(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Split `[G·(N/G + 2)·D, H]` into queries `[N·D, H]`, keys `[G·D, H]`, values `[G·D, H]`."""
    groups, size, rest = model.query_groups, model.head_size, fused.shape[1:]
    queries = model.num_attention_heads // groups
    by_group = fused.reshape(groups, queries + 2, size, *rest)
    parts = torch.tensor_split(by_group, [queries, queries + 1], dim=1)
    query, key, value = (part.reshape(-1, *rest) for part in parts)
    return in_their_order(query, model), in_their_order(key, model), value


def join_qkv(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Join queries, keys and values: the inverse of `split_qkv`."""
    groups, size = model.query_groups, model.head_size
    query, key, value = parts
    ordered = (in_our_order(query, model), in_our_order(key, model), value)
    by_group = [part.reshape(groups, -1, size, *part.shape[1:]) for part in ordered]
    return torch.cat(by_group, dim=1).reshape(-1, *parts[0].shape[1:])


def split_gate_up(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Split `[2·F, H]` into gate `[F, H]` and up `[F, H]`."""
    return torch.tensor_split(fused, 2)


def join_gate_up(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Join gate and up: the inverse of `split_gate_up`."""
    return torch.cat(tuple(parts))


def split_experts_gate_up(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Split `[E, 2·F, H]` into gate `[F, H]` and up `[F, H]` of the first expert, of the second, and so on."""
    return tuple(part for expert in fused for part in torch.tensor_split(expert, 2))


def join_experts_gate_up(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Join gate and up of all experts: the inverse of `split_experts_gate_up`."""
    return torch.stack([torch.cat((gate, up)) for gate, up in zip(parts[::2], parts[1::2], strict=True)])


def split_experts(stacked: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Split `[E, …]` into the tensors of the experts."""
    return stacked.unbind()


def join_experts(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Join the tensors of the experts: the inverse of `split_experts`."""
    return torch.stack(tuple(parts))


def alternate(stacked: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Order `[E, 2·F, H]` as `[E, H, 2·F]`, where the gate's and the up projection's outputs alternate."""
    by_half = stacked.view(stacked.size(0), 2, -1, *stacked.shape[2:])
    return (by_half.movedim((2, 1), (-2, -1)).flatten(-2).contiguous(),)


def group(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Order alternating outputs as the gate's, then the up projection's: the inverse of `alternate`."""
    (alternating,) = parts
    by_pair = alternating.view(*alternating.shape[:-1], -1, 2)
    return by_pair.movedim((-2, -1), (2, 1)).flatten(1, 2).contiguous()


def split_qkv_turned(fused: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Order `[G·(N/G + 2)·D, H]` as `[H, (N + 2·G)·D]`: all queries, all keys, all values; of a bias likewise."""
    ordered = torch.cat(split_qkv(fused, model))
    return _turned(ordered, model)


def join_qkv_turned(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Order by groups again: the inverse of `split_qkv_turned`."""
    ordered = _turned_back(parts, model)
    queries, others = (heads * model.head_size for heads in (model.num_attention_heads, model.query_groups))
    return join_qkv(torch.split(ordered, [queries, others, others]), model)


def _turned(tensor: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Turn a matrix; a bias stays as it is."""
    return (tensor.T.contiguous() if tensor.dim() > 1 else tensor,)


def _turned_back(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    return _turned(parts[0], model)[0]


def turn(stacked: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Turn `[E, H, F]` to `[E, F, H]`."""
    return (stacked.mT.contiguous(),)


def turn_back(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Turn the matrix of each expert: the inverse of `turn`."""
    (turned,) = parts
    return turned.mT.contiguous()


def cut_vocabulary(padded: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    """Cut `[P, H]` to `[V, H]`: the padding is never predicted or trained."""
    return (padded[: model.vocab_size],)


def pad_vocabulary(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    """Pad `[V, H]` to `[P, H]`, with zeros as at the start of a training."""
    (rows,) = parts
    padding = rows.new_zeros(model.padded_vocab_size - rows.size(0), *rows.shape[1:])
    return torch.cat((rows, padding))


def _same(tensor: torch.Tensor, model: ModelConfig) -> tuple[torch.Tensor, ...]:
    return (tensor,)


def _only(parts: Sequence[torch.Tensor], model: ModelConfig) -> torch.Tensor:
    (tensor,) = parts
    return tensor


UNCHANGED = Fusion(split=_same, join=_only)
QKV = Fusion(split=split_qkv, join=join_qkv)
HEADS = Fusion(
    split=lambda tensor, model: (in_their_order(tensor, model),),
    join=lambda parts, model: in_our_order(parts[0], model),
)
"""A norm of heads, whose numbers are ordered as those of the heads."""
GATE_UP = Fusion(split=split_gate_up, join=join_gate_up)
TURNED = Fusion(split=_turned, join=_turned_back)
QKV_TURNED = Fusion(split=split_qkv_turned, join=join_qkv_turned)
EXPERTS = Fusion(split=split_experts, join=join_experts)
EXPERTS_GATE_UP = Fusion(split=split_experts_gate_up, join=join_experts_gate_up)
EXPERTS_ALTERNATING = Fusion(split=alternate, join=group)
EXPERTS_TURNED = Fusion(split=turn, join=turn_back)
VOCABULARY = Fusion(split=cut_vocabulary, join=pad_vocabulary)
