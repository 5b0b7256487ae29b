"""Megatron's optimizer as a run uses it: what decays, and what clipping does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import worlds
from pool import Pool

from harness.config.schema import Config

RATE, DECAY = 0.1, 0.5


def config(**optimizer: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": {
                "num_layers": 2,
                "hidden_size": 32,
                "num_attention_heads": 4,
                "ffn_hidden_size": 48,
                "vocab_size": 100,
                "normalization": "LayerNorm",
                "activation": "gelu",
                "add_bias_linear": True,
            },
            "data": {"channels": {"zh": {"path": "zh"}}},
            "phases": [{"name": "main", "train_steps": 9, "seq_length": 8, "global_batch_size": 2, "blend": {"zh": 1}}],
            "optimizer": {"learning_rate": 1.0, "weight_decay": DECAY, **optimizer},
            "precision": {"dtype": "fp32"},
        }
    )


@pytest.mark.parametrize("world_size", [1, 2])
def test_matrices_decay_and_vectors_do_not(world_size: int, pool: Pool) -> None:
    """Without a gradient a step only decays."""
    before, after, norm = pool.run(worlds.optimizer_step, world_size, config(), 0.0, RATE)[0]
    assert norm == 0.0
    for name, weight in before.items():
        if weight.ndim == 1:
            np.testing.assert_array_equal(after[name], weight, err_msg=name)
        else:
            np.testing.assert_allclose(after[name], weight * (1 - RATE * DECAY), rtol=1e-6, atol=1e-9, err_msg=name)
    assert {weight.ndim for weight in before.values()} == {1, 2}


@pytest.mark.parametrize("world_size", [1, 2])
def test_clipping_in_the_kernel_equals_smaller_gradients(world_size: int, pool: Pool) -> None:
    """With a large epsilon a step depends on the size of the gradient: clipped to a norm, it is that of less of it."""
    before, clipped, norm = pool.run(worlds.optimizer_step, world_size, config(adam_eps=1.0, clip_grad=0.5), 0.1, RATE)[
        0
    ]
    count = sum(weight.size for weight in before.values())
    assert norm == pytest.approx(0.1 * count**0.5, rel=1e-5)
    _, smaller, smaller_norm = pool.run(
        worlds.optimizer_step, world_size, config(adam_eps=1.0, clip_grad=0.0), 0.1 * 0.5 / norm, RATE
    )[0]
    assert smaller_norm == pytest.approx(0.5, rel=1e-5)
    _, free, _ = pool.run(worlds.optimizer_step, world_size, config(adam_eps=1.0, clip_grad=0.0), 0.1, RATE)[0]
    for name in before:
        np.testing.assert_allclose(clipped[name], smaller[name], rtol=1e-5, atol=1e-8, err_msg=name)
        assert np.abs(clipped[name] - free[name]).max() > 1e-3
