"""Documents that are packed into samples, and kept apart, are the same documents alone: losses and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import packed_jobs
import pytest
from model_samples import LATENT, small_model_config
from pool import Pool

MODELS: dict[str, dict[str, Any]] = {
    "shared-keys": {},
    "windows-and-sinks": {"window_size": 4, "window_attn_skip_freq": 2, "softmax_type": "learnable"},
    "capped": {"attn_logit_softcapping": 5.0},
    "latent": LATENT,
    "yarn": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "learned-positions": {"position_embedding_type": "learned_absolute", "max_position_embeddings": 32},
    "experts": {"num_moe_experts": 4, "moe_router_topk": 2},
    "further-tokens": {"mtp_num_layers": 2},
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_packed_is_the_same_as_alone(model: dict[str, Any], pool: Pool) -> None:
    config = small_model_config({"dtype": "fp32"}, model={"init_method_std": 0.1, **model})
    config = config.model_copy(update={"data": config.data.model_copy(update={"reset_at_document_borders": True})})
    (packed,), (alone,) = (pool.run(packed_jobs.losses_and_gradients, 1, config, way) for way in (True, False))
    num_tokens = sum(length - 1 for row in packed_jobs.LENGTHS for length in row)
    assert len(packed[0]) == num_tokens
    assert packed[0] == pytest.approx(alone[0], rel=1e-6)
    for name, gradient in alone[1].items():
        largest = np.abs(gradient).max()
        assert largest > 0, name
        np.testing.assert_allclose(packed[1][name], gradient, rtol=1e-5, atol=2e-6 * largest, err_msg=name)
