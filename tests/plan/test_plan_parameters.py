from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.model import ModelConfig
from harness.config.schema import Config
from harness.plan.flops import flops_per_token, flops_per_token_full_attention, hardware_flops_per_token
from harness.plan.layouts import make_layout
from harness.plan.parameters import count_parameters, stage_parameters
from harness.plan.stages import layers_per_stage

MakeConfig = Callable[..., Config]

SEQ_LENGTH = 64

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "grouped queries": {"num_query_groups": 2},
    "one query group, tied": {"num_query_groups": 1, "untie_embeddings_and_output_weights": False},
    "head size of its own": {"num_query_groups": 2, "kv_channels": 48},
    "qwen2": {"num_query_groups": 2, "add_qkv_bias": True},
    "qwen3": {"num_query_groups": 2, "kv_channels": 48, "qk_layernorm": True},
}


def model_of(changes: dict[str, Any]) -> ModelConfig:
    return ModelConfig.model_validate(
        {
            "num_layers": 3,
            "hidden_size": 128,
            "num_attention_heads": 4,
            "ffn_hidden_size": 352,
            "vocab_size": 1000,
            **changes,
        }
    )


def hugging_face_model(model: ModelConfig, device: str = "meta") -> Any:  # noqa: ANN401  # transformers is untyped
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if model.qk_layernorm:
        config_class, model_class = transformers.Qwen3Config, transformers.Qwen3ForCausalLM
    elif model.add_qkv_bias:
        config_class, model_class = transformers.Qwen2Config, transformers.Qwen2ForCausalLM
    else:
        config_class, model_class = transformers.LlamaConfig, transformers.LlamaForCausalLM
    config = config_class(
        num_hidden_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_key_value_heads=model.query_groups,
        head_dim=model.head_size,
        intermediate_size=model.ffn_hidden_size,
        vocab_size=model.vocab_size,
        tie_word_embeddings=not model.untie_embeddings_and_output_weights,
        attn_implementation="eager",
    )
    with torch.device(device):
        return model_class(config)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))
def test_parameters_equal_those_of_the_hugging_face_model(changes: dict[str, Any]) -> None:
    model = model_of(changes)
    theirs = sum(parameter.numel() for parameter in hugging_face_model(model).parameters())
    assert count_parameters(model).total == theirs


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("changes", MODELS.values(), ids=list(MODELS))
def test_flops_equal_the_matrix_products_of_the_hugging_face_model(changes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    counter = pytest.importorskip("torch.utils.flop_counter")
    model = model_of(changes)
    theirs = hugging_face_model(model, device="cpu")
    tokens = torch.zeros((2, SEQ_LENGTH), dtype=torch.long)
    with counter.FlopCounterMode(display=False) as flops:
        theirs(input_ids=tokens, use_cache=False)
    per_token, remainder = divmod(flops.get_total_flops(), 2 * SEQ_LENGTH)
    assert remainder == 0
    # Eager attention computes the full square; backward costs twice the forward.
    assert flops_per_token_full_attention(model, SEQ_LENGTH) == 3 * per_token


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "changes",
    [
        {"normalization": "LayerNorm", "activation": "gelu", "add_bias_linear": True},
        {"activation": "gelu"},
        {"activation": "geglu", "add_bias_linear": True, "num_query_groups": 2},
    ],
)
def test_biases_norms_and_ungated_layers_are_counted(changes: dict[str, Any]) -> None:
    model = model_of(changes)
    h, f, groups = model.hidden_size, model.ffn_hidden_size, model.query_groups
    inner = f * (2 if model.gated else 1)
    qkv = h + 2 * groups * model.head_size
    weights = h * qkv + h * h + h * inner + f * h
    biases = (qkv + h + inner + h) if model.add_bias_linear else 0
    norm = 2 * h if model.normalization == "LayerNorm" else h
    count = count_parameters(model)
    assert count.per_layer == weights + biases + 2 * norm
    assert count.total == 3 * count.per_layer + norm + 2 * 1000 * h


def test_padded_rows_are_counted_apart() -> None:
    untied = count_parameters(model_of({}))
    assert untied.padding == 2 * 24 * 128
    assert untied.padded_total == untied.total + untied.padding
    tied = count_parameters(model_of({"untie_embeddings_and_output_weights": False}))
    assert (tied.output, tied.padding) == (0, 24 * 128)


def test_the_headline_flops_follow_the_documented_formula() -> None:
    model = model_of({"num_query_groups": 2})
    layers, h, f, vocabulary, seq = 3, 128, 352, 1000, 4096
    linear = 6 * (layers * (2 * h * h + 2 * h * 64 + 3 * h * f) + vocabulary * h)
    assert flops_per_token(model, seq) == linear + 6 * layers * seq * h
    assert flops_per_token_full_attention(model, seq) == linear + 12 * layers * seq * h


def test_the_published_convention_of_llama_3_8b() -> None:
    model = model_of(
        {
            "num_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_query_groups": 8,
            "ffn_hidden_size": 14336,
            "vocab_size": 128256,
        }
    )
    # 10,471 tokens/s on a GPU of 989 TFLOP/s are 51.1 % with causal attention and 54.5 % with the full square.
    assert 10_471 * flops_per_token(model, 4096) / 989e12 == pytest.approx(0.511, abs=5e-4)
    assert 10_471 * flops_per_token_full_attention(model, 4096) / 989e12 == pytest.approx(0.545, abs=5e-4)


ATTENTION, MLP, PROJECTIONS = 2 * SEQ_LENGTH * 1024, 2 * 3 * 1024 * 2816, 2 * 2 * (1024 + 256) * 1024
"""Forward FLOPs per token of a layer: scores and values, the MLP's products, the products of attention."""
LAYER = ATTENTION + MLP + PROJECTIONS
BLOCK = {"recompute_granularity": "full", "recompute_method": "block"}


@pytest.mark.parametrize(
    ("parallel", "again"),
    [
        ({"recompute": "selective"}, 0),
        ({"recompute": "full"}, 32 * LAYER),
        ({"recompute_granularity": "full", "recompute_num_layers": 4}, 32 * LAYER),
        ({**BLOCK, "recompute_num_layers": 3}, 3 * LAYER),
        ({**BLOCK, "recompute_num_layers": 3, "pipeline_model_parallel_size": 4}, 4 * 3 * LAYER),
        # The chunks have 15, 2, 14 and 1 layers.
        (
            {
                **BLOCK,
                "recompute_num_layers": 3,
                "pipeline_model_parallel_size": 2,
                "pipeline_model_parallel_layout": "Et*15|tt|t*14|tL",
            },
            (3 + 2 + 3 + 1) * LAYER,
        ),
        ({"recompute_granularity": "selective", "recompute_modules": ["core_attn"]}, 32 * ATTENTION),
        ({"recompute_granularity": "selective", "recompute_modules": ["mlp", "layernorm"]}, 32 * MLP),
    ],
)
def test_executed_flops_add_what_is_computed_again(
    make_config: MakeConfig, parallel: dict[str, Any], again: int
) -> None:
    none = hardware_flops_per_token(make_config(), SEQ_LENGTH)
    assert none == flops_per_token(make_config().model, SEQ_LENGTH) + 32 * ATTENTION // 2
    assert hardware_flops_per_token(make_config(parallel=parallel), SEQ_LENGTH) == none + again


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    "parallel",
    [
        {},
        {"pipeline_model_parallel_size": 4},
        {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 4},
        {"pipeline_model_parallel_size": 4, "num_layers_in_first_pipeline_stage": 5},
        {"pipeline_model_parallel_size": 4, "pipeline_model_parallel_layout": "E|t*20|tt|t*3|ttt|t|t|ttL"},
    ],
)
def test_the_stages_hold_the_whole_model(make_config: MakeConfig, parallel: dict[str, Any], tied: bool) -> None:
    config = make_config(
        model={"untie_embeddings_and_output_weights": not tied, "vocab_size": 31900}, parallel=parallel
    )
    stages = stage_parameters(config.model, make_layout(config, 8), layers_per_stage(config))
    second_copy = 32000 * 1024 if tied and len(stages) > 1 else 0
    assert sum(stage.total for stage in stages) == count_parameters(config.model).padded_total + second_copy


def test_tensor_ranks_share_all_but_norms_and_projection_biases(make_config: MakeConfig) -> None:
    config = make_config(
        model={"add_bias_linear": True, "qk_layernorm": True}, parallel={"tensor_model_parallel_size": 8}
    )
    (stage,) = stage_parameters(config.model, make_layout(config, 8), layers_per_stage(config))
    assert stage.replicated == 32 * (2 * 1024 + 2 * 1024 + 2 * 32) + 1024
    assert 8 * stage.split + stage.replicated == count_parameters(config.model).padded_total
