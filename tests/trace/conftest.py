"""Traces in processes of their own: a process that traces computes on nothing from then on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from forkserver import warm_context
from trace_jobs import send_findings

from harness.config.schema import Config
from harness.plan.plan import make_plan
from harness.trace.findings import StageFindings
from harness.trace.request import requests_for

TIMEOUT_S = 120

Trace = Callable[..., StageFindings]


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Build a configuration of two layers of a real size, so that no length is like another."""

    def make(
        model: dict[str, Any] | None = None,
        parallel: dict[str, Any] | None = None,
        precision: str = "bf16",
        phase: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
    ) -> Config:
        return Config.model_validate(
            {
                "run": {"name": "test"},
                "model": {
                    "num_layers": 2,
                    "hidden_size": 2048,
                    "num_attention_heads": 32,
                    "num_query_groups": 8,
                    "ffn_hidden_size": 8192,
                    "vocab_size": 128256,
                    **(model or {}),
                },
                "parallel": parallel or {},
                "data": {"channels": {"zh": {"path": "data/zh"}}},
                "phases": [
                    {
                        "name": "main",
                        "train_steps": 10,
                        "seq_length": 6144,
                        "global_batch_size": 32,
                        "blend": {"zh": 1},
                        **(phase or {}),
                    }
                ],
                "optimizer": {"learning_rate": 3e-4, **(optimizer or {})},
                "precision": {"dtype": precision},
            }
        )

    return make


@pytest.fixture(scope="session")
def trace() -> Trace:
    """Trace a pipeline rank of a configuration; `before` is called first in the process that does."""

    def run(
        config: Config, world_size: int, pipeline_rank: int = 0, before: Callable[[], None] | None = None
    ) -> StageFindings:
        pytest.importorskip("megatron.core")
        plan = make_plan(config, world_size)
        request = requests_for(config, plan, plan.phases[0])[pipeline_rank]
        ours, theirs = warm_context().Pipe()
        process = warm_context().Process(target=send_findings, args=(theirs, request, before))
        process.start()
        theirs.close()
        try:
            assert ours.poll(TIMEOUT_S), f"no findings within {TIMEOUT_S} s"
            answer = ours.recv()
        finally:
            process.kill()
            process.join()
        assert isinstance(answer, StageFindings), answer
        return answer

    return run
