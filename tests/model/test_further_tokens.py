"""Gradients of modules that predict further tokens, where products add them, and where both ends of a pipeline do."""

from __future__ import annotations

from typing import Any

import model_jobs
import numpy as np
import pytest
from model_samples import small_model_config
from pool import Pool

from harness.config.schema import Config
from harness.parameters.names import EMBEDDING, LAYERS, OUTPUT


def _config(*, tied: bool, **parallel: Any) -> Config:
    config = small_model_config({"dtype": "fp32"}, parallel=parallel)
    changes = {"mtp_num_layers": 2, "untie_embeddings_and_output_weights": not tied}
    return config.model_copy(update={"model": config.model.model_copy(update=changes)})


def _assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, sums in expected.items():
        np.testing.assert_allclose(found[name], sums, rtol=1e-4, atol=1e-7, err_msg=name)
        assert np.abs(sums).max() > 0, name


@pytest.mark.parametrize(("tied", "recompute"), [(True, "none"), (True, "full"), (False, "selective")])
def test_gradients_that_products_add_and_backward_reduces_are_the_same(tied: bool, recompute: str, pool: Pool) -> None:
    """Weights that are read several times, and layers in modules, tell Megatron once that they are ready."""
    plain, again = (_config(tied=tied, data_parallel_size=2, recompute=kind) for kind in ("none", recompute))
    behind = pool.run(model_jobs.gradient_sums, 2, plain, False)
    within = pool.run(model_jobs.gradient_sums, 2, again, True, True)
    for before, after in zip(behind, within, strict=True):
        assert before.pop("products") == 0
        assert after.pop("products") > 0
        _assert_same(after, before)


@pytest.mark.parametrize("adds_in_products", [False, True])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_both_ends_of_a_pipeline_have_the_gradient_of_the_embedding(
    tied: bool, adds_in_products: bool, pool: Pool
) -> None:
    (whole,) = pool.run(model_jobs.gradient_sums, 1, _config(tied=tied), False)
    staged = _config(tied=tied, pipeline_model_parallel_size=2)
    first, last = pool.run(model_jobs.gradient_sums, 2, staged, adds_in_products)
    expected = {name: sums for name, sums in whole.items() if not name.startswith(LAYERS) and name != "products"}
    embedding = {EMBEDDING: expected.pop(EMBEDDING)}
    _assert_same(first, embedding)
    _assert_same(last, {OUTPUT if tied else EMBEDDING: embedding[EMBEDDING]} | expected)
