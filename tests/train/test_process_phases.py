"""Four phases in real processes: killed again and again, with parts arriving, and with a layout that changes."""

from __future__ import annotations

import numpy as np
import pytest
import worlds
from phase_kills import LAST_STEP, NUM_PHASES, Campaign, phased_site, steps, undisturbed
from pool import Pool

pytestmark = pytest.mark.slow


def require_same_end(campaign: Campaign, pool: Pool) -> None:
    """The killed run is, bit for bit, one that was not."""
    site = campaign.site
    assert campaign.num_parts == NUM_PHASES
    assert len(site.events("adopted")) >= NUM_PHASES
    other = undisturbed(site)
    assert steps(site) == steps(other)
    assert sorted(steps(site)) == list(range(1, LAST_STEP + 1))
    ends = [each.run_dir.checkpoint(LAST_STEP) for each in (site, other)]
    assert pool.run(worlds.differing_tensors, 1, *ends) == [{}]


def test_a_run_of_four_phases_killed_at_random_ends_like_one_that_was_not(
    tmp_path_factory: pytest.TempPathFactory, pool: Pool
) -> None:
    campaign = Campaign(phased_site(tmp_path_factory.mktemp("few")), seed=1)
    campaign.run(3)
    require_same_end(campaign, pool)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [2])
def test_a_run_of_four_phases_killed_twenty_times_ends_like_one_that_was_not(
    seed: int, tmp_path_factory: pytest.TempPathFactory, pool: Pool
) -> None:
    campaign = Campaign(phased_site(tmp_path_factory.mktemp("many")), seed=seed)
    campaign.run(20)
    assert campaign.num_kills == 20
    require_same_end(campaign, pool)


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
