"""Initial weights depend on the seed and the parameter, not on who holds which part."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from harness.config.model import ModelConfig
from harness.model.initial_weights import fill, part_of, whole_name
from harness.parallel.ranks import Place, Ranks
from harness.parameters.names import EMBEDDING, OUTPUT
from harness.parameters.parameter import Cut
from harness.parameters.table import find_parameter

ONE = Place(rank=0, size=1)


def model(**changes: Any) -> ModelConfig:
    values = {"num_layers": 4, "hidden_size": 16, "num_attention_heads": 2, "ffn_hidden_size": 24, "vocab_size": 100}
    return ModelConfig(**{**values, "add_qkv_bias": True, **changes})


def ranks_of(tp: Place = ONE, ep: Place = ONE, etp: Place = ONE) -> Ranks:
    return Ranks(world=ONE, tp=tp, pp=ONE, dp=ONE, cp=ONE, ep=ep, etp=etp)


def cut_of(name: str, config: ModelConfig) -> Cut | None:
    return find_parameter(whole_name(name, 0, config), config).cut


def standard_deviation(name: str, config: ModelConfig) -> float:
    return find_parameter(name, config).initial.deviation


WHOLE_SHAPES = {
    EMBEDDING: (128, 16),
    "decoder.layers.0.self_attention.linear_qkv.weight": (48, 16),
    "decoder.layers.0.self_attention.linear_proj.weight": (16, 16),
    "decoder.layers.0.mlp.linear_fc1.weight": (48, 16),
    "decoder.layers.0.mlp.linear_fc2.weight": (16, 24),
    "decoder.layers.0.input_layernorm.weight": (16,),
    "decoder.layers.0.self_attention.linear_qkv.bias": (48,),
    OUTPUT: (128, 16),
}


def filled(
    tp: Place = ONE, *, seed: int = 1, first_layer: int = 0, config: ModelConfig | None = None
) -> dict[str, Any]:
    config = config or model()
    parameters = {}
    for name, shape in WHOLE_SHAPES.items():
        sizes = list(shape)
        if cut := cut_of(name, config):
            sizes[cut.dim] //= tp.size
        parameters[name] = torch.full(sizes, math.nan)
    fill(parameters.items(), config, seed=seed, first_layer=first_layer, ranks=ranks_of(tp=tp))
    return parameters


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", WHOLE_SHAPES)
def test_parts_of_ranks_join_to_the_whole(name: str, size: int) -> None:
    whole, parts = filled()[name], [filled(Place(rank=rank, size=size))[name] for rank in range(size)]
    cut = cut_of(name, model())
    if cut is None:
        assert all(torch.equal(part, whole) for part in parts)
        return
    blocks = [
        torch.cat(block, dim=cut.dim) for block in zip(*(p.chunk(cut.num_blocks, cut.dim) for p in parts), strict=True)
    ]
    assert torch.equal(torch.cat(blocks, dim=cut.dim), whole)


def test_gate_and_up_projection_are_cut_each_on_its_own() -> None:
    whole = torch.arange(8)[:, None]
    parts = [part_of(whole, Cut(dim=0, num_blocks=2), Place(rank=rank, size=2)).flatten().tolist() for rank in (0, 1)]
    assert parts == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert cut_of("decoder.layers.0.mlp.linear_fc1.weight", model(activation="gelu")) == Cut(dim=0)


def test_layers_are_counted_over_all_stages() -> None:
    name = "decoder.layers.0.mlp.linear_fc2.weight"
    assert whole_name(name, 3, model()) == "decoder.layers.3.mlp.linear_fc2.weight"
    assert not torch.equal(filled()[name], filled(first_layer=3)[name])
    assert torch.equal(filled()[EMBEDDING], filled(first_layer=3)[EMBEDDING])


def test_a_tied_output_layer_is_the_embedding() -> None:
    tied, untied = filled(config=model(untie_embeddings_and_output_weights=False)), filled()
    assert torch.equal(tied[OUTPUT], tied[EMBEDDING])
    assert not torch.equal(untied[OUTPUT], untied[EMBEDDING])


def test_the_seed_changes_every_matrix() -> None:
    one, other = filled(seed=1), filled(seed=2)
    changed = {name for name in one if not torch.equal(one[name], other[name])}
    assert changed == {name for name, shape in WHOLE_SHAPES.items() if len(shape) == 2}


def test_norms_are_ones_and_biases_zeros() -> None:
    found = filled()
    assert set(found["decoder.layers.0.input_layernorm.weight"].tolist()) == {1.0}
    assert set(found["decoder.layers.0.self_attention.linear_qkv.bias"].tolist()) == {0.0}


def test_residual_projections_are_smaller() -> None:
    assert standard_deviation("decoder.layers.1.mlp.linear_fc1.weight", model()) == 0.02
    assert standard_deviation("decoder.layers.1.mlp.linear_fc2.weight", model()) == 0.02 / math.sqrt(8)
    assert standard_deviation("decoder.layers.1.self_attention.linear_proj.weight", model()) == 0.02 / math.sqrt(8)
    assert standard_deviation("decoder.final_layernorm.weight", model()) == 0.0
    wide = torch.full((256, 1024), math.nan)
    wide_model = model(hidden_size=1024, ffn_hidden_size=128)
    fill([("decoder.layers.0.mlp.linear_fc1.weight", wide)], wide_model, seed=0, first_layer=0, ranks=ranks_of())
    assert float(wide.std()) == pytest.approx(0.02, rel=0.01)
    assert float(wide.mean()) == pytest.approx(0.0, abs=2e-4)


@pytest.mark.parametrize("name", [EMBEDDING, OUTPUT])
def test_padded_rows_are_zero_and_change_nothing(name: str) -> None:
    whole = filled()[name]
    assert not whole[100:].any()
    unpadded = torch.full((100, 16), math.nan)
    fill([(name, unpadded)], model(vocab_size_multiple_of=1), seed=1, first_layer=0, ranks=ranks_of())
    assert torch.equal(whole[:100], unpadded)


EXPERTS = "decoder.layers.0.mlp.experts.linear_fc1.weight"


def experts_of(ep: Place = ONE, etp: Place = ONE) -> torch.Tensor:
    config = model(num_moe_experts=4, moe_ffn_hidden_size=24)
    tensor = torch.full((4 // ep.size, 48 // etp.size, 16), math.nan)
    fill([(EXPERTS, tensor)], config, seed=1, first_layer=0, ranks=ranks_of(ep=ep, etp=etp))
    return tensor


def test_experts_differ_and_do_not_depend_on_who_holds_them() -> None:
    whole = experts_of()
    assert len({float(expert.sum()) for expert in whole}) == 4
    for size in (2, 4):
        assert torch.equal(torch.cat([experts_of(ep=Place(rank=rank, size=size)) for rank in range(size)]), whole)
    shares = [experts_of(etp=Place(rank=rank, size=2)) for rank in range(2)]
    blocks = [torch.cat(block, dim=1) for block in zip(*(share.chunk(2, dim=1) for share in shares), strict=True)]
    assert torch.equal(torch.cat(blocks, dim=1), whole)
