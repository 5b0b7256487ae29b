"""Normalization layers against their formulas."""

from __future__ import annotations

import pytest
import worlds
from pool import Pool


def test_norms_follow_their_formulas_and_are_marked(pool: Pool) -> None:
    found = pool.run(worlds.norms, 1)[0]
    assert set(found) == {"RMSNorm", "LayerNorm", "RMSNorm, zero-centred", "LayerNorm, zero-centred"}
    for difference, marks in found.values():
        assert difference == pytest.approx(0.0, abs=1e-6)
        assert marks == {"sequence_parallel": True, "dtype": "torch.float32"}
