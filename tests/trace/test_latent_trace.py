"""The estimate of memory of latent attention is that of the real program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config
from harness.plan.layouts import make_layout
from harness.plan.memory import GIB, estimate_memory
from harness.trace.findings import StageFindings

LITE = {
    "num_attention_heads": 16,
    "num_query_groups": None,
    "ffn_hidden_size": 10944,
    "vocab_size": 102400,
    "multi_latent_attention": True,
    "qk_layernorm": True,
}
LARGE = {**LITE, "num_attention_heads": 64, "q_lora_rank": 1536}
LAYOUTS: list[tuple[str, dict[str, Any], dict[str, Any], int, float]] = [
    # name, model, parallel, ranks, peak in GiB
    ("one rank", LITE, {}, 1, 12.675),
    (
        "tensor 2, sequence parallelism",
        LARGE,
        {"tensor_model_parallel_size": 2, "sequence_parallel": True},
        2,
        7.566,
    ),
    ("tensor 4", LARGE, {"tensor_model_parallel_size": 4}, 4, 4.098),
    ("selective recomputation", LITE, {"recompute": "selective", "micro_batch_size": 2}, 2, 11.249),
]


@pytest.mark.parametrize(
    ("model", "parallel", "world_size", "peak_gib"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS]
)
def test_the_estimate_of_latents_is_the_traced_peak(
    make_config: Callable[..., Config],
    trace: Callable[..., StageFindings],
    model: dict[str, Any],
    parallel: dict[str, Any],
    world_size: int,
    peak_gib: float,
) -> None:
    config = make_config(model=model, parallel=parallel)
    findings = trace(config, world_size)
    assert findings.peak_bytes / GIB == pytest.approx(peak_gib, abs=0.005)
    estimate = estimate_memory(config, make_layout(config, world_size))[0]
    assert estimate.total_bytes == pytest.approx(findings.peak_bytes, rel=0.01)
    parts = findings.bytes_by_part
    moving = estimate.activations_bytes + estimate.temporary_bytes
    assert moving == pytest.approx(parts["activations"] + parts["temporary"], rel=0.03)
