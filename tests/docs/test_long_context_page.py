"""The page about long contexts: its phases are legal, and the first plan is the one that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from harness.config.load import load_config

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/long_context.md").read_text(encoding="utf-8")
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)]
PLANS = [block["phases"] for block in BLOCKS if "phases" in block]
QWEN = ROOT / "model_configs/qwen2.5_7b.yaml"


@pytest.mark.parametrize("phases", PLANS, ids=["long", "curriculum"])
def test_plans_are_legal_and_keep_the_tokens_of_a_step(phases: list[dict[str, object]], tmp_path: Path) -> None:
    values = yaml.safe_load(QWEN.read_text(encoding="utf-8")) | {"phases": phases}
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    config = load_config(path)
    assert {phase.seq_length * phase.global_batch_size for phase in config.phases} == {4096 * 1024}


def test_the_first_plan_is_that_of_the_file() -> None:
    assert yaml.safe_load(QWEN.read_text(encoding="utf-8"))["phases"] == PLANS[0]


def test_both_probes_are_named() -> None:
    (evaluation,) = [block["evaluation"] for block in BLOCKS if "evaluation" in block]
    assert set(evaluation) == {"every_steps", "loss_by_position", "num_needles_per_depth"}
