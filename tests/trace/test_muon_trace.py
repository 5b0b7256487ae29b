"""A step with Muon waits for nothing more, needs the memory that was estimated, and exchanges each update once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.config.schema import Config
from harness.parameters.table import parameter_table
from harness.plan.layouts import make_layout
from harness.plan.memory import estimate_memory
from harness.trace.findings import StageFindings


def test_muon_in_a_trace(make_config: Callable[..., Config], trace: Callable[..., StageFindings]) -> None:
    layout = {"tensor_model_parallel_size": 2, "sequence_parallel": True}
    config = make_config(parallel=layout, optimizer={"kind": "muon"})
    findings = trace(config, 2)
    assert {(wait.place.function, wait.count) for wait in findings.host_waits} == {("Pipeline.read", 1)}
    estimate = estimate_memory(config, make_layout(config, 2))[0]
    assert estimate.total_bytes == pytest.approx(findings.peak_bytes, rel=0.01)
    assert estimate.optimizer_bytes == pytest.approx(findings.bytes_by_part["optimizer"], rel=0.002)
    (exchanged,) = [each for each in findings.collectives if each.kind == "all-to-all"]
    # Tensor-parallel ranks cut every matrix, so all of them are exchanged: to their owners, and back, in bf16.
    numbers = sum(parameter.size for parameter in parameter_table(config.model) if parameter.is_matrix)
    assert exchanged.num_bytes == pytest.approx(2 * 2 * numbers / 2, rel=0.01)
