"""Layers: what is refused before they are built."""

from __future__ import annotations

import pytest
import worlds
from model_samples import small_model_config
from pool import JobFailedError, Pool


def test_fp8_that_would_silently_be_bf16_is_refused(pool: Pool) -> None:
    config = small_model_config({"dtype": "bf16", "fp8": "hybrid"})
    text = (
        r"precision\.fp8: hybrid needs a GPU and Transformer Engine, and one of them is missing here: Megatron would "
        r"silently compute in bf16; see `harness doctor`, or leave precision\.fp8 out"
    )
    with pytest.raises(JobFailedError, match=text):
        pool.run(worlds.initial_weights, 1, config)
