"""Attention written out, for what no fused kernel knows: caps; on a CPU or in fp32 windows, sinks, not all queries.

A tile of queries is computed at a time, and computed again in backward, so nothing is as large as S×S.
Shapes: S sequence, B micro batch, N heads, G of them with keys and values of their own, D head size (values: d), s
queries of a tile, t keys that they may look at.
"""

from __future__ import annotations

import math

import torch
from torch.utils.checkpoint import checkpoint

from harness.model.attention.rules import Rules

_FEWEST_QUERIES = 128
_SCORES_AT_ONCE = 1 << 26
"""On a GPU: a tile takes three times as much memory, in fp32; with few of them, few kernels are launched."""


def attend_in_tiles(
    query_BNSD: torch.Tensor,
    key_BGSD: torch.Tensor,
    value_BGSd: torch.Tensor,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """Return causal attention by these rules: `[B, N, S, d]`.

    Where there are fewer queries than keys, the last query stands where the last key stands.
    """
    length, before = query_BNSD.size(2), key_BGSD.size(2) - query_BNSD.size(2)
    tiles, at_once = [], _queries_at_once(query_BNSD, num_keys=key_BGSD.size(2))
    for begin in range(0, length, at_once):
        end = min(begin + at_once, length)
        first = 0 if rules.window is None else max(0, before + begin + 1 - rules.window)
        keys = slice(first, before + end)
        parts = (query_BNSD[:, :, begin:end], key_BGSD[:, :, keys], value_BGSd[:, :, keys])
        tiles.append(checkpoint(_tile, *parts, sinks_N, rules, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(tiles, dim=2)


def _queries_at_once(query_BNSD: torch.Tensor, *, num_keys: int) -> int:
    if query_BNSD.device.type == "cpu":
        return _FEWEST_QUERIES
    batch, heads = query_BNSD.shape[:2]
    return max(_FEWEST_QUERIES, _SCORES_AT_ONCE // (batch * heads * num_keys))


def _tile(
    query_BNsD: torch.Tensor,
    key_BGtD: torch.Tensor,
    value_BGtd: torch.Tensor,
    sinks_N: torch.Tensor | None,
    rules: Rules,
) -> torch.Tensor:
    """Return attention of some queries, the last of which stands where the last key stands: `[B, N, s, d]`."""
    batch, heads, queries, head_size = query_BNsD.shape
    groups, keys = key_BGtD.shape[1:3]
    # The heads of a group are further queries of it: keys and values are not copied for them.
    query_BGrD = query_BNsD.reshape(batch, groups, -1, head_size)
    scale = 1 / math.sqrt(head_size) if rules.scale is None else rules.scale
    scores_BNst = (query_BGrD @ key_BGtD.mT).view(batch, heads, queries, keys).float() * scale
    if rules.cap is not None:
        scores_BNst = rules.cap * torch.tanh(scores_BNst / rules.cap)
    scores_BNst = scores_BNst.masked_fill(_hidden(queries, keys, rules.window, query_BNsD.device), -math.inf)
    if sinks_N is not None:
        sinks_BNs1 = sinks_N.float().view(1, -1, 1, 1).expand(batch, heads, queries, 1)
        weights_BNst = torch.cat((scores_BNst, sinks_BNs1), dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights_BNst = scores_BNst.softmax(dim=-1)
    weights_BGrt = weights_BNst.to(value_BGtd.dtype).reshape(batch, groups, -1, keys)
    return (weights_BGrt @ value_BGtd).view(batch, heads, queries, -1)


def _hidden(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """Return what each query does not see, `[s, t]`: what comes behind it, and what is too far before it."""
    ahead_st = torch.arange(keys, device=device) - torch.arange(keys - queries, keys, device=device)[:, None]
    hidden_st = ahead_st > 0
    return hidden_st if window is None else hidden_st | (ahead_st <= -window)
