"""What a rollback skips, as people are told it: in steps."""

from __future__ import annotations

import pytest
from run_samples import SMALLEST

from harness.config.load import load_config
from harness.plan.plan import make_plan
from harness.run.commands.requests import Rollback
from harness.train.commands.skipped_text import skipped_text


@pytest.mark.parametrize(
    ("windows", "given", "text"),
    [
        ([], {}, "no samples are skipped"),
        (
            [(8, 16)],
            {"skip_steps": (3, 4)},
            "skipping the samples of steps 3 to 4; in all, the run skips 8 samples at step 3 (8 to 15 of the order)",
        ),
        (
            [(8, 12)],
            {"skip_steps": (3, 3)},
            "skipping the samples of step 3; in all, the run skips 4 samples at step 3 (8 to 11 of the order)",
        ),
        (
            [(8, 16), (24, 28)],
            {"skip_steps": (5, 5)},
            "skipping the samples of step 5; in all, the run skips 8 samples at step 3 (8 to 15 of the order) and "
            "4 samples at step 5 (24 to 27 of the order)",
        ),
        (
            [(9, 10)],
            {"skip_samples": (9, 10)},
            "skipping 1 sample; in all, the run skips 1 sample at step 3 (9 to 9 of the order)",
        ),
        (
            [(8, 16)],
            {},
            "nothing further is skipped; in all, the run skips 8 samples at step 3 (8 to 15 of the order)",
        ),
    ],
)
def test_skipped_samples_are_told_in_steps(
    tmp_path_factory: pytest.TempPathFactory,
    windows: list[tuple[int, int]],
    given: dict[str, tuple[int, int]],
    text: str,
) -> None:
    path = tmp_path_factory.mktemp("run") / "config.yaml"
    path.write_text(SMALLEST)
    plan = make_plan(load_config(path), 1)
    assert skipped_text(windows, Rollback(kind="rollback", to_step=2, **given), plan) == text
