"""The estimate of memory is that of the real program, for layouts that span its terms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.plan.layouts import make_layout
from harness.plan.memory import GIB, estimate_memory
from harness.trace.findings import StageFindings

TIED = {"untie_embeddings_and_output_weights": False}
GPT = {
    "hidden_size": 3072,
    "num_attention_heads": 24,
    "num_query_groups": None,
    "ffn_hidden_size": 12288,
    "vocab_size": 50304,
    "normalization": "LayerNorm",
    "activation": "gelu",
    "add_bias_linear": True,
}
WIDE = {"hidden_size": 4096, "ffn_hidden_size": 14336}


def layout(tensor: int = 1, pipeline: int = 1, virtual: int | None = None, **others: Any) -> dict[str, Any]:
    return {
        "tensor_model_parallel_size": tensor,
        "pipeline_model_parallel_size": pipeline,
        "virtual_pipeline_model_parallel_size": virtual,
        **others,
    }


def modules(*names: str, size: int = 1, tensor: int = 1, **others: Any) -> dict[str, Any]:
    chosen = {"recompute_granularity": "selective", "recompute_modules": list(names)}
    return layout(tensor, micro_batch_size=size, **chosen, **others)


OLMO = {"norm_placement": "behind", "qk_layernorm": True, "qk_layernorm_over": "width"}
LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any], int, int, float]] = [
    # name, model, parallel, ranks, pipeline rank, peak in GiB
    ("one rank, tied", TIED, layout(micro_batch_size=2), 1, 0, 11.747),
    ("data 2, untied", {}, layout(), 2, 0, 10.128),
    ("tensor 2, norms of queries and keys", {"qk_layernorm": True}, layout(2), 2, 0, 7.055),
    ("tensor 2 with sequence parallelism, data 2", TIED, layout(2, sequence_parallel=True), 4, 0, 3.644),
    ("pipeline 2, the stage without logits", {**WIDE, "num_layers": 4}, layout(1, 2, micro_batch_size=2), 2, 0, 23.254),
    ("interleaved pipeline 2 of 2 chunks, data 2", {"num_layers": 8}, layout(1, 2, 2), 4, 1, 10.385),
    ("full recomputation", {**WIDE, "num_layers": 4}, layout(micro_batch_size=2, recompute="full"), 1, 0, 36.812),
    (
        "selective recomputation, tensor 2, sequence parallelism",
        {},
        layout(2, sequence_parallel=True, recompute="selective"),
        2,
        0,
        6.779,
    ),
    ("selective recomputation, data 2", {}, layout(recompute="selective"), 2, 0, 9.847),
    ("attention and MLP recomputed", {**WIDE, "num_layers": 4}, modules("core_attn", "mlp", size=2), 1, 0, 38.875),
    (
        "norms and MLP recomputed, tensor 2",
        {},
        modules("layernorm", "mlp", tensor=2, sequence_parallel=True),
        2,
        0,
        6.591,
    ),
    (
        "units of two layers recomputed",
        {**WIDE, "num_layers": 4},
        layout(micro_batch_size=2, recompute="full", recompute_num_layers=2),
        1,
        0,
        36.625,
    ),
    (
        "some layers recomputed, uneven interleaved pipeline",
        {"num_layers": 8},
        layout(
            1,
            2,
            recompute="full",
            recompute_method="block",
            pipeline_model_parallel_layout="Et|t*4|tt|tL",
        ),
        4,
        1,
        11.135,
    ),
    (
        "the embedding alone",
        {"num_layers": 8},
        layout(1, 2, pipeline_model_parallel_layout="E|t*8L"),
        2,
        0,
        4.916,
    ),
    (
        "norms around, zero-centred, selective recomputation",
        {"norm_placement": "around", "layernorm_zero_centered_gamma": True},
        layout(recompute="selective"),
        2,
        0,
        9.941,
    ),
    ("norms behind, and over the width, tensor 2", {**OLMO, **TIED}, layout(2), 2, 0, 4.859),
    ("GPT: LayerNorm, biases, no gate, pipeline 2", {**GPT, **TIED}, layout(1, 2, micro_batch_size=2), 2, 1, 7.340),
    ("a module of further tokens, tied", {**TIED, "mtp_num_layers": 1}, layout(micro_batch_size=2), 1, 0, 16.947),
    ("two modules of further tokens, untied", {"mtp_num_layers": 2}, layout(), 1, 0, 20.103),
    ("a module of further tokens on the last of two stages", {"mtp_num_layers": 1}, layout(1, 2), 2, 1, 15.493),
    ("context 2, keys and values of all", {"num_query_groups": 8}, layout(context_parallel_size=2), 2, 0, 8.959),
    (
        "context 2, a part of the heads",
        {"num_query_groups": 8},
        layout(context_parallel_size=2, cp_comm_type="a2a"),
        2,
        0,
        8.948,
    ),
    (
        "context 4, two samples at once",
        {"num_query_groups": 8},
        layout(context_parallel_size=4, micro_batch_size=2),
        4,
        0,
        7.181,
    ),
    (
        "context 2, tensor 2, attention recomputed",
        {"num_query_groups": 8},
        modules("core_attn", tensor=2, sequence_parallel=True, context_parallel_size=2),
        4,
        0,
        4.486,
    ),
    ("two modules, tied, last of two stages", {**TIED, "mtp_num_layers": 2}, layout(1, 2), 2, 1, 14.269),
]


@pytest.mark.parametrize(
    ("model", "parallel", "world_size", "rank", "peak_gib"),
    [case[1:] for case in LAYOUTS],
    ids=[case[0] for case in LAYOUTS],
)
def test_the_estimate_is_the_traced_peak(
    make_config: Callable[..., Config],
    trace: Callable[..., StageFindings],
    model: dict[str, Any],
    parallel: dict[str, Any],
    world_size: int,
    rank: int,
    peak_gib: float,
) -> None:
    config = make_config(model=model, parallel=parallel)
    findings = trace(config, world_size, rank)
    assert findings.peak_bytes / GIB == pytest.approx(peak_gib, abs=0.005)
    estimate = estimate_memory(config, make_layout(config, world_size))[rank]
    assert estimate.total_bytes == pytest.approx(findings.peak_bytes, rel=0.01)
    parts = findings.bytes_by_part
    for part in ("weights", "gradients", "optimizer", "logits"):
        assert getattr(estimate, f"{part}_bytes") == pytest.approx(parts[part], rel=0.002), part
    moving = estimate.activations_bytes + estimate.temporary_bytes
    assert moving == pytest.approx(parts["activations"] + parts["temporary"], rel=0.03)


def test_fp32_is_estimated_too(make_config: Callable[..., Config], trace: Callable[..., StageFindings]) -> None:
    config = make_config(parallel=layout(2), precision="fp32")
    estimate = estimate_memory(config, make_layout(config, 2))[0]
    assert estimate.total_bytes == pytest.approx(trace(config, 2).peak_bytes, rel=0.01)
