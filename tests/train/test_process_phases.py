"""Four phases in real processes, with a layout that changes in between: one command goes through all of them."""

from __future__ import annotations

import numpy as np
import pytest
from phased_site import phased_site, steps

pytestmark = pytest.mark.slow


def test_one_command_goes_through_a_phase_in_another_layout(tmp_path_factory: pytest.TempPathFactory) -> None:
    same = phased_site(tmp_path_factory.mktemp("same"))
    other = phased_site(tmp_path_factory.mktemp("other"), parallel={"tensor_model_parallel_size": 2})
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
