"""Latent attention in the plan: parameters, FLOPs and memory, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.plan.flops import flops_per_token, hardware_flops_per_token
from harness.plan.layouts import layout_problems, make_layout
from harness.plan.memory import estimate_memory
from harness.plan.parameters import count_parameters

MakeConfig = Callable[..., Config]
LATENT: dict[str, Any] = {
    "num_layers": 4,
    "num_query_groups": None,
    "multi_latent_attention": True,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_head_dim": 24,
    "qk_pos_emb_head_dim": 8,
    "v_head_dim": 20,
    "qk_layernorm": True,
}
HIDDEN, HEADS, SEQ_LENGTH = 1024, 32, 2048
PROJECTIONS = 96 * HIDDEN + HEADS * 32 * 96 + (64 + 8) * HIDDEN + HEADS * (24 + 20) * 64 + HIDDEN * HEADS * 20


def test_the_parameters_of_attention_are_those_of_its_projections_and_norms(make_config: MakeConfig) -> None:
    count = count_parameters(make_config(model=LATENT).model)
    assert count.attention_per_layer == PROJECTIONS + 96 + 64
    without = count_parameters(make_config(model={**LATENT, "q_lora_rank": None}).model)
    assert count.attention_per_layer - without.attention_per_layer == (
        96 * HIDDEN + HEADS * 32 * 96 + 96 - HEADS * 32 * HIDDEN
    )


def test_flops_count_heads_of_queries_and_of_values(make_config: MakeConfig) -> None:
    model = make_config(model=LATENT).model
    linear = 6 * (4 * (PROJECTIONS + 3 * HIDDEN * 2816) + 32000 * HIDDEN)
    assert flops_per_token(model, SEQ_LENGTH) == linear + 3 * 4 * SEQ_LENGTH * HEADS * (32 + 20)
    # What is executed has values as wide as queries and keys: two products forward, five backward.
    assert hardware_flops_per_token(model, SEQ_LENGTH, "none") == linear + 7 * 4 * SEQ_LENGTH * HEADS * 32


def test_memory_counts_latents_and_heads_of_one_width(make_config: MakeConfig) -> None:
    (estimate,) = estimate_memory(make_config(model=LATENT), make_layout(make_config(model=LATENT), 1))
    latents = 2 * (96 + 64) + 8
    heads = HEADS * (4 * 32 + 20)
    layer = 2 * (4 * HIDDEN + latents + heads + 3 * 2816) + 4 * (HEADS + 2 + 2)
    final_norm = 2 * 2 * HIDDEN + 4
    assert estimate.activations_bytes == SEQ_LENGTH * (4 * layer + final_norm)


def test_sequence_parallelism_divides_latents_tensor_parallelism_alone_does_not(make_config: MakeConfig) -> None:
    def activations(**parallel: Any) -> int:
        config = make_config(model=LATENT, parallel=parallel)
        return estimate_memory(config, make_layout(config, 2))[0].activations_bytes

    alone = activations()
    assert activations(tensor_model_parallel_size=2, sequence_parallel=True) == alone // 2
    whole = 4 * (2 * (4 * HIDDEN + 2 * (96 + 64) + 8) + 4 * 4) + 2 * 2 * HIDDEN + 4
    assert activations(tensor_model_parallel_size=2) == (alone + SEQ_LENGTH * whole) // 2


def test_heads_that_ranks_cannot_share_are_refused(make_config: MakeConfig) -> None:
    config = make_config(model=LATENT, parallel={"tensor_model_parallel_size": 3})
    (problem,) = [each for each in layout_problems(config, 3) if "num_attention_heads" in each]
    assert problem.startswith("num_attention_heads 32 is not divisible by tensor_model_parallel_size 3: use ")


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_less_is_kept_the_more_is_recomputed(make_config: MakeConfig, recompute: str) -> None:
    config = make_config(model=LATENT, parallel={"recompute": recompute})
    (estimate,) = estimate_memory(config, make_layout(config, 1))
    normed = 4 * SEQ_LENGTH * 2 * (2 * HIDDEN + 96 + 64 + 2816)
    (kept,) = estimate_memory(make_config(model=LATENT), make_layout(config, 1))
    if recompute == "selective":
        assert kept.activations_bytes - estimate.activations_bytes == normed
    elif recompute == "full":
        assert estimate.activations_bytes < kept.activations_bytes / 2
    else:
        assert estimate == kept
