from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.nearest import nearest, nearest_divisors, nearest_multiples, one_of
from harness.config.schema import Config
from harness.errors import ConfigError
from harness.plan.layouts import Layout, layout_problems, make_layout, smallest_world_size
from harness.plan.stages import layers_per_stage

MakeConfig = Callable[..., Config]


def test_the_layout_takes_what_is_left_over_for_data_parallelism(make_config: MakeConfig) -> None:
    config = make_config(parallel={"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 4})
    layout = make_layout(config, 16)
    assert layout == Layout(tensor=2, pipeline=4, virtual_pipeline=1, context=1, data=2)
    assert layout.world_size == 16


@pytest.mark.parametrize(("data", "expected"), [(None, 6), (4, 24)])
def test_the_smallest_world_is_one_copy_or_the_copies_asked_for(
    make_config: MakeConfig, data: int | None, expected: int
) -> None:
    parallel = {
        "tensor_model_parallel_size": 2,
        "pipeline_model_parallel_size": 3,
        "data_parallel_size": data,
    }
    assert smallest_world_size(make_config(parallel=parallel)) == expected


NO_LAYER_DROPPED = "(no layer is ever dropped to make it fit)"

BROKEN_RULES = [
    (
        "world size",
        {"parallel": {"tensor_model_parallel_size": 2, "pipeline_model_parallel_size": 2}},
        7,
        "world size 7 is not a multiple of tensor 2 x pipeline 2 x context 1 = 4: "
        "start 4 or 8 ranks, or change the parallel sizes",
    ),
    (
        "no rank",
        {"parallel": {"tensor_model_parallel_size": 2}},
        0,
        "world size 0 is not a multiple of tensor 2 x pipeline 1 x context 1 = 2: "
        "start 2 ranks, or change the parallel sizes",
    ),
    (
        "data_parallel_size",
        {"parallel": {"tensor_model_parallel_size": 2, "data_parallel_size": 2}},
        8,
        "world size 8 is not tensor 2 x pipeline 1 x context 1 x data 2 = 4: "
        "start 4 ranks, or leave data_parallel_size out",
    ),
    (
        "heads",
        {
            "model": {"num_attention_heads": 20, "num_query_groups": None, "kv_channels": 64},
            "parallel": {"tensor_model_parallel_size": 8},
        },
        8,
        "num_attention_heads 20 is not divisible by tensor_model_parallel_size 8: use 4",
    ),
    (
        "query groups",
        {"model": {"num_query_groups": 2}, "parallel": {"tensor_model_parallel_size": 4}},
        4,
        "num_query_groups 2 is not divisible by tensor_model_parallel_size 4: use 2",
    ),
    (
        "ffn",
        {"model": {"ffn_hidden_size": 2818}, "parallel": {"tensor_model_parallel_size": 4}},
        4,
        "ffn_hidden_size 2818 is not divisible by tensor_model_parallel_size 4: use 2",
    ),
    (
        "padded vocabulary",
        {
            "model": {"vocab_size": 999, "vocab_size_multiple_of": 2, "num_query_groups": None},
            "parallel": {"tensor_model_parallel_size": 16},
        },
        16,
        "padded vocabulary size 1000 is not divisible by tensor_model_parallel_size 16: use 8",
    ),
    (
        "a rank of padding",
        {
            "model": {"vocab_size": 90, "vocab_size_multiple_of": 128},
            "parallel": {"tensor_model_parallel_size": 4},
        },
        4,
        "vocab_size 90 padded to 128 leaves the last of 4 tensor-parallel ranks without a single token: "
        "use 2, or a smaller vocab_size_multiple_of",
    ),
    (
        "layers by stages",
        {"model": {"num_layers": 30}, "parallel": {"pipeline_model_parallel_size": 4}},
        4,
        "num_layers 30 is not divisible by pipeline_model_parallel_size 4: use 3 or 5 stages, or "
        f"pipeline_model_parallel_layout {NO_LAYER_DROPPED}",
    ),
    (
        "layers and loss by stages",
        {"parallel": {"pipeline_model_parallel_size": 4, "account_for_loss_in_pipeline_split": True}},
        4,
        "num_layers 32 and loss, which count as one each: 33 is not divisible by pipeline_model_parallel_size 4: use 3 "
        f"or 11 stages, or pipeline_model_parallel_layout {NO_LAYER_DROPPED}",
    ),
    (
        "layers, embedding and loss by stages and chunks",
        {
            "model": {"num_layers": 30},
            "parallel": {
                "pipeline_model_parallel_size": 4,
                "virtual_pipeline_model_parallel_size": 3,
                "account_for_embedding_in_pipeline_split": True,
                "account_for_loss_in_pipeline_split": True,
            },
        },
        4,
        "num_layers 30 and embedding and loss, which count as one each: 32 is not divisible by "
        "pipeline_model_parallel_size 4 x virtual_pipeline_model_parallel_size 3 = 12: use 2 or 4 virtual chunks, or "
        f"pipeline_model_parallel_layout {NO_LAYER_DROPPED}",
    ),
    (
        "layers by units that are recomputed",
        {
            "parallel": {
                "pipeline_model_parallel_size": 2,
                "pipeline_model_parallel_layout": "Et*20|t*12L",
                "recompute_granularity": "full",
                "recompute_num_layers": 3,
            }
        },
        2,
        "recompute_num_layers 3 does not divide the layers of every model chunk (12, 20), which recompute_method "
        "uniform recomputes in units of so many: use 2 or 4, or recompute_method block",
    ),
    (
        "more layers to recompute than there are",
        {
            "parallel": {
                "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": 2,
                "recompute_granularity": "full",
                "recompute_method": "block",
                "recompute_num_layers": 9,
            }
        },
        2,
        "recompute_num_layers 9 is more than there are: model chunks have at most 8 layers: use at most as many",
    ),
    (
        "layers by stages and chunks",
        {"parallel": {"pipeline_model_parallel_size": 4, "virtual_pipeline_model_parallel_size": 3}},
        4,
        "num_layers 32 is not divisible by pipeline_model_parallel_size 4 x virtual_pipeline_model_parallel_size 3 "
        f"= 12: use 2 or 4 virtual chunks, or pipeline_model_parallel_layout {NO_LAYER_DROPPED}",
    ),
    (
        "uneven first stage",
        {"parallel": {"pipeline_model_parallel_size": 4, "num_layers_in_first_pipeline_stage": 6}},
        4,
        "num_layers 32 with 6 in the first stage leaves 26 layers for 3 other stages, which cannot be shared out "
        f"evenly: use num_layers_in_first_pipeline_stage 5 or 8 {NO_LAYER_DROPPED}",
    ),
    (
        "uneven ends, two stages",
        {
            "parallel": {
                "pipeline_model_parallel_size": 2,
                "num_layers_in_first_pipeline_stage": 20,
                "num_layers_in_last_pipeline_stage": 10,
            }
        },
        2,
        "num_layers 32 with 20 in the first stage and 10 in the last stage leaves 2 layers for 0 other stages, which "
        f"cannot be shared out evenly: use num_layers_in_last_pipeline_stage 12 {NO_LAYER_DROPPED}",
    ),
    (
        "uneven ends without a remedy",
        {
            "parallel": {
                "pipeline_model_parallel_size": 4,
                "num_layers_in_first_pipeline_stage": 40,
                "num_layers_in_last_pipeline_stage": 1,
            }
        },
        4,
        "num_layers 32 with 40 in the first stage and 1 in the last stage leaves -9 layers for 2 other stages, which "
        f"cannot be shared out evenly: use smaller ends or fewer stages {NO_LAYER_DROPPED}",
    ),
    (
        "uneven and interleaved",
        {
            "parallel": {
                "pipeline_model_parallel_size": 2,
                "virtual_pipeline_model_parallel_size": 2,
                "num_layers_in_last_pipeline_stage": 14,
            }
        },
        2,
        "virtual_pipeline_model_parallel_size 2 cannot be combined with uneven stages "
        "(num_layers_in_first/last_pipeline_stage): leave one of them out, or give pipeline_model_parallel_layout",
    ),
    (
        "sequence parallel",
        {"parallel": {"tensor_model_parallel_size": 8, "sequence_parallel": True}, "phase": {"seq_length": 2044}},
        8,
        "seq_length 2044 of phase main is not divisible by tensor_model_parallel_size 8 (sequence_parallel): "
        "use 2040 or 2048",
    ),
    (
        "context parallel",
        {"parallel": {"context_parallel_size": 4}, "phase": {"seq_length": 2044}},
        4,
        "seq_length 2044 of phase main is not divisible by 2 x context_parallel_size 4: use 2040 or 2048",
    ),
    (
        "sequence and context parallel",
        {
            "parallel": {"tensor_model_parallel_size": 4, "context_parallel_size": 2, "sequence_parallel": True},
            "phase": {"seq_length": 2044},
        },
        8,
        "seq_length 2044 of phase main is not divisible by tensor_model_parallel_size 4 x context_parallel_size 2 "
        "(sequence_parallel): use 2040 or 2048",
    ),
    (
        "batch",
        {"parallel": {"micro_batch_size": 3}},
        8,
        "global_batch_size 64 of phase main is not divisible by micro_batch_size 3 x data-parallel size 8 = 24: "
        "use 48 or 72",
    ),
    (
        "batch of an interleaved pipeline",
        {
            "parallel": {"pipeline_model_parallel_size": 4, "virtual_pipeline_model_parallel_size": 2},
            "phase": {"global_batch_size": 12},
        },
        8,
        "global_batch_size 12 of phase main makes 6 micro-batches (micro_batch_size 1 x data-parallel size 2 = 2), "
        "but the interleaved pipeline needs a multiple of pipeline_model_parallel_size 4: use 8 or 16",
    ),
]


@pytest.mark.parametrize(
    ("changes", "world_size", "message"), [case[1:] for case in BROKEN_RULES], ids=[case[0] for case in BROKEN_RULES]
)
def test_a_broken_rule_is_named_with_the_nearest_legal_values(
    make_config: MakeConfig, changes: dict[str, Any], world_size: int, message: str
) -> None:
    assert layout_problems(make_config(**changes), world_size) == [message]


def test_all_broken_rules_are_reported_together(make_config: MakeConfig) -> None:
    config = make_config(
        parallel={
            "tensor_model_parallel_size": 3,
            "pipeline_model_parallel_size": 5,
            "sequence_parallel": True,
            "micro_batch_size": 7,
            "data_parallel_size": 1,
        }
    )
    with pytest.raises(ConfigError) as caught:
        make_layout(config, 16)
    subjects = [problem.split(" ")[0] for problem in caught.value.problems]
    assert subjects == [
        "world",
        "num_attention_heads",
        "num_query_groups",
        "ffn_hidden_size",
        "padded",
        "num_layers",
        "seq_length",
        "global_batch_size",
    ]


def test_a_wrong_world_size_does_not_make_up_problems_of_the_batch(make_config: MakeConfig) -> None:
    config = make_config(parallel={"tensor_model_parallel_size": 4}, phase={"global_batch_size": 3})
    assert [problem.split(" ")[0] for problem in layout_problems(config, 2)] == ["world"]


STAGES: list[tuple[dict[str, Any], tuple[tuple[int, ...], ...]]] = [
    ({}, ((32,),)),
    ({"pipeline_model_parallel_size": 4}, ((8, 8, 8, 8),)),
    ({"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 4}, ((4, 4),) * 4),
    ({"pipeline_model_parallel_size": 4, "num_layers_in_first_pipeline_stage": 5}, ((5, 9, 9, 9),)),
    ({"pipeline_model_parallel_size": 4, "num_layers_in_last_pipeline_stage": 2}, ((10, 10, 10, 2),)),
    (
        {
            "pipeline_model_parallel_size": 4,
            "num_layers_in_first_pipeline_stage": 7,
            "num_layers_in_last_pipeline_stage": 5,
        },
        ((7, 10, 10, 5),),
    ),
    (
        {
            "pipeline_model_parallel_size": 2,
            "num_layers_in_first_pipeline_stage": 20,
            "num_layers_in_last_pipeline_stage": 12,
        },
        ((20, 12),),
    ),
    (
        {"pipeline_model_parallel_size": 3, "account_for_embedding_in_pipeline_split": True},
        ((10, 11, 11),),
    ),
    (
        {
            "pipeline_model_parallel_size": 2,
            "virtual_pipeline_model_parallel_size": 17,
            "account_for_embedding_in_pipeline_split": True,
            "account_for_loss_in_pipeline_split": True,
        },
        ((0, 1), *((1, 1),) * 15, (1, 0)),
    ),
    ({"pipeline_model_parallel_size": 3, "pipeline_model_parallel_layout": "Et*3|(t,t)*7|t*15L"}, ((3, 14, 15),)),
    (
        {"pipeline_model_parallel_size": 4, "pipeline_model_parallel_layout": "E|t*20|(tt|)*3t|tt|t*3L"},
        ((0, 20, 2, 2), (2, 1, 2, 3)),
    ),
]


@pytest.mark.parametrize(("parallel", "expected"), STAGES)
def test_layers_per_stage(
    make_config: MakeConfig, parallel: dict[str, Any], expected: tuple[tuple[int, ...], ...]
) -> None:
    config = make_config(parallel=parallel)
    assert layout_problems(config, smallest_world_size(config)) == []
    assert layers_per_stage(config) == expected
    assert sum(map(sum, expected)) == config.model.num_layers


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parallel", [parallel for parallel, _ in STAGES])
def test_layers_lie_where_megatron_puts_them(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, parallel: dict[str, Any]
) -> None:
    blocks = pytest.importorskip("megatron.core.transformer.transformer_block")
    layer = pytest.importorskip("megatron.core.transformer.transformer_layer")
    settings = pytest.importorskip("megatron.core.transformer.transformer_config")
    torch = pytest.importorskip("torch")
    stages = parallel.get("pipeline_model_parallel_size", 1)
    chunks = make_config(parallel=parallel).parallel.num_model_chunks
    state = pytest.importorskip("megatron.core.parallel_state")
    monkeypatch.setattr(state, "_VIRTUAL_PIPELINE_MODEL_PARALLEL_WORLD_SIZE", chunks if chunks > 1 else None)
    theirs = settings.TransformerConfig(
        num_layers=32, hidden_size=64, num_attention_heads=4, pipeline_dtype=torch.float32, **parallel
    )
    first_layer = 0
    for chunk, sizes in enumerate(layers_per_stage(make_config(parallel=parallel))):
        for rank, size in enumerate(sizes):
            where = {"vp_stage": chunk if chunks > 1 else None, "pp_rank": rank}
            monkeypatch.setattr(state, "_MPU_PIPELINE_MODEL_PARALLEL_RANK", rank)  # for a layout, this one counts
            assert blocks.get_num_layers_to_build(theirs, **where) == size
            assert layer.get_transformer_layer_offset(theirs, **where) == first_layer
            first_layer += size
    assert first_layer == 32
    assert stages * chunks == sum(len(sizes) for sizes in layers_per_stage(make_config(parallel=parallel)))


def test_nearest_values() -> None:
    assert nearest([8, 2, 4], 3) == [2, 4]
    assert nearest([2, 4], 9) == [4]
    assert nearest_divisors(30, 4) == [3, 5]
    assert nearest_multiples(4, 7) == [4, 8]
    assert nearest_multiples(4, 8) == [4, 12]
    assert nearest_multiples(4, 1) == [4]
    assert nearest_multiples(4, -3) == [4]
    assert one_of([2, 4]) == "2 or 4"
