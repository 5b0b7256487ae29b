"""Fusing and splitting against index arithmetic written another way."""

from __future__ import annotations

import pytest
import torch

from checkpoint_tools.layout import GATE_UP, QKV, VOCABULARY, Fusion
from harness.config.model import ModelConfig


def model_of(heads: int, groups: int, head_size: int, **changes: int) -> ModelConfig:
    values = {"num_layers": 1, "hidden_size": 10, "ffn_hidden_size": 7, "vocab_size": 13, "vocab_size_multiple_of": 8}
    values |= {"num_attention_heads": heads, "num_query_groups": groups, "kv_channels": head_size}
    return ModelConfig.model_validate(values | changes)


@pytest.mark.parametrize(("heads", "groups", "size"), [(4, 4, 6), (4, 2, 6), (6, 1, 24), (8, 2, 2)])
@pytest.mark.parametrize("rest", [(10,), ()], ids=["weight", "bias"])
def test_qkv_rows_are_where_megatron_has_them(heads: int, groups: int, size: int, rest: tuple[int, ...]) -> None:
    model = model_of(heads, groups, size)
    per_group = heads // groups
    fused = torch.randn((heads + 2 * groups) * size, *rest)
    q, k, v = QKV.split(fused, model)
    assert (q.shape[0], k.shape[0], v.shape[0]) == (heads * size, groups * size, groups * size)
    for group in range(groups):
        start = group * (per_group + 2) * size
        for head in range(per_group):
            own = (group * per_group + head) * size
            assert torch.equal(q[own : own + size], fused[start + head * size : start + (head + 1) * size])
        keys = start + per_group * size
        assert torch.equal(k[group * size : (group + 1) * size], fused[keys : keys + size])
        assert torch.equal(v[group * size : (group + 1) * size], fused[keys + size : keys + 2 * size])
    assert torch.equal(QKV.join((q, k, v), model), fused)


def test_gate_comes_before_up() -> None:
    model = model_of(2, 2, 5)
    fused = torch.arange(14.0)[:, None].expand(14, 3)
    gate, up = GATE_UP.split(fused, model)
    assert (gate[0, 0], gate[-1, 0], up[0, 0], up[-1, 0]) == (0, 6, 7, 13)
    assert torch.equal(GATE_UP.join((gate, up), model), fused)


def test_padding_of_the_vocabulary_is_cut_and_restored_as_zeros() -> None:
    model = model_of(2, 2, 5)
    padded = torch.randn(16, 10)
    (rows,) = VOCABULARY.split(padded, model)
    assert torch.equal(rows, padded[:13])
    joined = VOCABULARY.join((rows,), model)
    assert torch.equal(joined[:13], rows)
    assert joined[13:].abs().max() == 0
    assert joined.shape == (16, 10)


@pytest.mark.parametrize(("fusion", "rows"), [(QKV, 20), (GATE_UP, 14), (VOCABULARY, 16)])
def test_shapes_can_be_planned_without_memory(fusion: Fusion, rows: int) -> None:
    parts = fusion.split(torch.empty(rows, 10, device="meta"), model_of(2, 1, 5))
    assert all(part.is_meta for part in parts)
