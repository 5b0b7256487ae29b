from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Build a configuration of two layers of a real size, so that no length is like another."""

    def make(
        model: dict[str, Any] | None = None,
        parallel: dict[str, Any] | None = None,
        precision: str = "bf16",
        phase: dict[str, Any] | None = None,
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
                "optimizer": {"learning_rate": 3e-4},
                "precision": {"dtype": precision},
            }
        )

    return make
