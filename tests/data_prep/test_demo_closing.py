"""What the end of `make demo` proposes is accepted."""

from __future__ import annotations

import re
from pathlib import Path

from checkpoint_samples import sample_manifest

from data_prep.demo.closing import _next
from harness.config.load import load_config
from harness.plan.schedule import phase_schedules
from harness.run.begun_phases import require_planned
from harness.run.paths import RunDir

TINY = Path(__file__).parents[2] / "model_configs" / "tiny.yaml"


def test_the_longer_phase_that_is_proposed_is_confirmed(tmp_path: Path) -> None:
    told = " ".join(_next(RunDir(tmp_path)))
    overrides = re.findall(r"--set (\S+)", told)
    assert "phases.0.train_steps=320" in overrides
    rate = phase_schedules(load_config(TINY))[0].learning_rate(300)
    manifest = sample_manifest(300, learning_rate=rate)
    (remark,) = require_planned(load_config(TINY, overrides), manifest, RunDir(tmp_path))
    assert "(confirmed by phases.0.schedule.changed_after_step)" in remark
