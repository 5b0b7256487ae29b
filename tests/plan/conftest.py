from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from harness.config.schema import Config

MakeConfig = Callable[..., Config]


@pytest.fixture
def make_config() -> MakeConfig:
    """Build a configuration of a small model; the arguments change fields of its sections."""

    def make(
        model: dict[str, Any] | None = None,
        parallel: dict[str, Any] | None = None,
        phase: dict[str, Any] | None = None,
        precision: str = "bf16",
        optimizer: dict[str, Any] | None = None,
    ) -> Config:
        return Config.model_validate(
            {
                "run": {"name": "test"},
                "model": {
                    "num_layers": 32,
                    "hidden_size": 1024,
                    "num_attention_heads": 32,
                    "num_query_groups": 8,
                    "ffn_hidden_size": 2816,
                    "vocab_size": 32000,
                    **(model or {}),
                },
                "parallel": parallel or {},
                "data": {"channels": {"zh": {"path": "data/zh"}, "en": {"path": "data/en"}}},
                "phases": [
                    {
                        "name": "main",
                        "train_steps": 100,
                        "seq_length": 2048,
                        "global_batch_size": 64,
                        "blend": {"zh": 1, "en": 1},
                        **(phase or {}),
                    }
                ],
                "optimizer": {"learning_rate": 3e-4, **(optimizer or {})},
                "precision": {"dtype": precision},
            }
        )

    return make
