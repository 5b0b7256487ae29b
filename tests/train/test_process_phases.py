"""Four phases in real processes, with a layout that changes in between: one command goes through all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from phased_site import phased_site, steps

pytestmark = pytest.mark.slow

EIGHT_TIMES_AS_LONG: dict[str, Any] = {
    "seq_length": 128,
    "rope_scaling": {"type": "yarn", "factor": 8.0, "original_max_position_embeddings": 16},
    "evaluation": {"every_steps": 15, "loss_by_position": True, "num_needles_per_depth": 1},
}
"""As 32k tokens after 4k."""


@pytest.mark.parametrize(
    ("of_long", "layout"),
    [
        ({}, {"tensor_model_parallel_size": 2}),
        (EIGHT_TIMES_AS_LONG, {"context_parallel_size": 2}),
    ],
    ids=["tp2", "cp2-yarn"],
)
def test_one_command_goes_through_a_phase_in_another_layout(
    of_long: dict[str, Any], layout: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    same = phased_site(tmp_path_factory.mktemp("same"), **of_long)
    other = phased_site(tmp_path_factory.mktemp("other"), **of_long, parallel=layout)
    for site in (same, other):
        code, text = site.train().finish()
        assert code == 0, text
    assert "going on with phase long in its own layout" in text
    assert [event["exit_code"] for event in other.events("exit")] == [75, 75, 0]
    assert [event["phase"] for event in other.events("phase")] == ["main", "long", "anneal"]
    expected, found = steps(same), steps(other)
    assert {step: values[:3] for step, values in found.items()} == {n: values[:3] for n, values in expected.items()}
    for index in (3, 4):
        np.testing.assert_allclose(
            [found[step][index] for step in expected], [expected[step][index] for step in expected], rtol=1e-4
        )
