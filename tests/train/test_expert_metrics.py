from __future__ import annotations

import pytest

from harness.model.experts.tally import RowSums
from harness.run import metric_names as names
from harness.train.steps.experts import expert_metrics, layer_loads


def row(*counts: float, aux_loss: float = 0.0, z_loss: float = 0.0, entropy: float = 0.0) -> RowSums:
    return RowSums(counts=counts, aux_loss=aux_loss, z_loss=z_loss, entropy=entropy)


def test_the_fullest_and_the_dead_experts_of_each_layer() -> None:
    rows = [row(10, 10, 10, 10), row(40, 0, 0, 0), row(1, 2, 3, 4)]
    assert layer_loads(rows) == ((1.0, 0.0), (4.0, 0.75), (1.6, 0.0))


def test_metrics_are_means_over_tokens_and_layers() -> None:
    """Two layers, two experts a token, ten tokens."""
    rows = [row(10, 10, aux_loss=10.0, z_loss=20.0, entropy=5.0), row(20, 0, aux_loss=20.0, z_loss=0.0, entropy=0.0)]
    assert expert_metrics(rows, topk=2, has_aux_loss=True) == pytest.approx(
        {
            names.EXPERT_MAX_LOAD: 2.0,
            names.EXPERT_DEAD_SHARE: 0.25,
            names.ROUTER_ENTROPY: 0.25,
            names.ROUTER_Z_LOSS: 1.0,
            names.ROUTER_AUX_LOSS: 1.5,
        }
    )
    assert names.ROUTER_AUX_LOSS not in expert_metrics(rows, topk=2, has_aux_loss=False)


def test_a_dense_model_has_no_metrics_of_experts() -> None:
    assert expert_metrics([], topk=2, has_aux_loss=False) == {}
    assert layer_loads([]) == ()
