"""A plan that is changed while the run lives, as its user changes it: what is asked, told, and trained."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from process_runs import Site

CONFIRMED = ("--set", "phases.0.schedule.changed_after_step=3")
LONGER = ("--set", "phases.0.train_steps=400")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A run of 6 steps that stopped after 3."""
    site = Site(tmp_path)
    site.config["phases"][0]["train_steps"] = 6
    code, text = site.train("--set", "run.stop_at_step=3").finish()
    assert code == 0, text
    return site


def test_a_longer_phase_is_refused_confirmed_and_then_not_asked_again(site: Site) -> None:
    code, text = site.train(*LONGER, "--set", "run.stop_at_step=4").finish()
    assert code == 64, text
    assert "the learning rate of step 4 is 1.0e-02, that of the checkpoint's last step was 5.5e-03" in text
    assert "put back what was changed (phases.0.train_steps: 6, now 400)" in text
    assert "`schedule: {continues: true}`" in text
    assert "Traceback" not in text
    assert site.last_step() == 3
    assert "train_steps: 6\n" in site.run_dir.config.read_text()

    code, text = site.train(*LONGER, *CONFIRMED, "--set", "run.stop_at_step=4").finish()
    assert code == 0, text
    assert "the learning rate of step 4 is 1.0e-02, that of the checkpoint's last step was 5.5e-03" in text
    assert "(confirmed by phases.0.schedule.changed_after_step)" in text

    for arguments in ((*LONGER, *CONFIRMED), LONGER):  # as a requeued job goes on, and as a person does
        code, text = site.train(*arguments, "--set", "run.stop_at_step=5", "--resume", "must").finish()
        assert code == 0, text
        assert "the learning rate of step" not in text


def test_a_further_phase_needs_no_confirmation(site: Site) -> None:
    site.train().finish()
    further = {"name": "further", "train_steps": 2, "schedule": {"continues": True}}
    site.config["phases"].append(deepcopy(site.config["phases"][0]) | further)
    code, text = site.train().finish()
    assert code == 0, text
    rates = {record.step: record.values["optim/learning_rate"] for record in site.records()}
    assert rates[6] == pytest.approx(1e-3)
    assert rates[7] <= rates[6]


def test_what_leaves_the_weights_as_they_are_may_be_switched_on(site: Site) -> None:
    changed = ("model.z_loss_coefficient=1e-4", "model.init_method_std=0.01", "data.reset_at_document_borders=true")
    code, text = site.train(*(word for each in changed for word in ("--set", each))).finish()
    assert code == 0, text
    for line in (
        "from step 4 on model.init_method_std: checkpoint 0.02, now 0.01",
        "from step 4 on model.z_loss_coefficient: checkpoint 0.0, now 0.0001",
        "from step 4 on data.reset_at_document_borders: checkpoint false, now true",
    ):
        assert line in text
    assert site.last_step() == 6
    code, text = site.train("--set", "model.norm_epsilon=1e-6").finish()
    assert code == 65, text
    assert "model.norm_epsilon: checkpoint 1e-05, now 1e-06" in text
