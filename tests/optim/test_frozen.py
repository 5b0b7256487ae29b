"""Frozen parameters: which they are, that nothing moves them, and that they count for nothing."""

from __future__ import annotations

from typing import Any

import frozen_jobs
import numpy as np
import pytest
from pool import Pool

from harness.config.schema import Config
from harness.parameters.names import matches_any, plain_name
from harness.parameters.table import parameter_table


def config(dtype: str = "fp32", kind: str = "adamw", **model: Any) -> Config:
    sizes = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 48, "vocab_size": 100}
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": sizes | model,
            "data": {"channels": {"zh": {"path": "zh"}}},
            "phases": [{"name": "main", "train_steps": 9, "seq_length": 8, "global_batch_size": 2, "blend": {"zh": 1}}],
            "optimizer": {"learning_rate": 1.0, "kind": kind},
            "precision": {"dtype": dtype},
        }
    )


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"normalization": "LayerNorm", "add_bias_linear": True, "activation": "gelu"},
        {"qk_layernorm": True, "add_qkv_bias": True, "untie_embeddings_and_output_weights": False},
    ],
)
def test_names_are_those_of_the_model_that_is_built(model: dict[str, Any], pool: Pool) -> None:
    made = config(**model)
    (built,) = pool.run(frozen_jobs.names_of, 1, made)
    assert sorted(built) == sorted(parameter.name for parameter in parameter_table(made.model))


def test_names_of_transformer_engine_are_the_same() -> None:
    assert plain_name("decoder.layers.3.self_attention.linear_qkv.layer_norm_weight") == (
        "decoder.layers.3.input_layernorm.weight"
    )
    assert plain_name("decoder.layers.3.mlp.linear_fc1.layer_norm_bias") == "decoder.layers.3.pre_mlp_layernorm.bias"
    assert plain_name("decoder.layers.3.mlp.linear_fc1.weight") == "decoder.layers.3.mlp.linear_fc1.weight"


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(("world_size", "dtype"), [(1, "fp32"), (2, "fp32"), (2, "bf16")])
def test_what_is_frozen_does_not_move_and_does_not_count(world_size: int, dtype: str, kind: str, pool: Pool) -> None:
    made = config(dtype, kind)
    frozen = ("embedding.*", "decoder.layers.0.*", "*layernorm*")
    found = pool.run(frozen_jobs.updates, world_size, made, [frozen, (), frozen])
    (first, second, third, last), norms, _ = found[0]
    num_moving = sum(weight.size for name, weight in first.items() if not matches_any(plain_name(name), frozen))
    num_all = sum(weight.size for weight in first.values())
    assert norms == pytest.approx([num_moving**0.5, num_all**0.5, num_moving**0.5])
    for name in first:
        is_frozen = matches_any(plain_name(name), frozen)
        assert np.array_equal(first[name], second[name]) == is_frozen, name
        assert not np.array_equal(second[name], third[name]), name
        assert np.array_equal(third[name], last[name]) == is_frozen, name


def test_there_are_moments_of_everything_to_save(pool: Pool) -> None:
    made = config()
    ((_, _, num_moments),) = pool.run(frozen_jobs.updates, 1, made, [("embedding.*", "decoder.layers.0.*")])
    assert num_moments == len(parameter_table(made.model))


def test_both_copies_of_a_tied_embedding_are_frozen(pool: Pool) -> None:
    made = config(untie_embeddings_and_output_weights=False).model_copy(
        update={"parallel": config().parallel.model_copy(update={"pipeline_model_parallel_size": 2})}
    )
    for (before, after), *_ in pool.run(frozen_jobs.updates, 2, made, [("embedding.*",)]):
        name = "embedding.word_embeddings.weight"
        assert np.array_equal(before[name], after[name])
        assert any(not np.array_equal(before[other], after[other]) for other in before if other != name)
