"""Golden values: the first 20 steps of the small run are those of the day when they were written down.

After a change that is meant to change them: `pytest tests/train/test_golden.py --write-golden`, and say in the commit
why the numbers moved.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from small_run import records

GOLDEN = Path(__file__).with_name("golden.json")
NUM_STEPS = 20
HINT = "if this is meant to change, write new values: pytest tests/train/test_golden.py --write-golden"

TOLERANCE = 2e-5
"""Other versions and processors add fp32 numbers in another order, which layouts and Hugging Face's code do too: these
stay within a quarter of it. A forgotten term shows: weight decay of the norms moved step 10 by 1e-4."""


@pytest.fixture(scope="module")
def golden(request: pytest.FixtureRequest, base_run: Path) -> dict[str, Any]:
    if request.config.getoption("--write-golden"):
        values = measured(base_run) | {"versions": {name: version(name) for name in ("torch", "megatron-core")}}
        GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
    return dict(json.loads(GOLDEN.read_text()))


def measured(run_dir: Path) -> dict[str, Any]:
    steps = records(run_dir)[:NUM_STEPS]
    return {
        "train/lm_loss": [step.values["train/lm_loss"] for step in steps],
        "optim/grad_norm": [step.values["optim/grad_norm"] for step in steps],
        "data/batch_hash": [f"{step.batch_hash:016x}" for step in steps],
    }


def test_losses_are_golden(golden: dict[str, Any], base_run: Path) -> None:
    assert measured(base_run)["train/lm_loss"] == pytest.approx(golden["train/lm_loss"], rel=TOLERANCE), HINT


def test_gradient_norms_are_golden(golden: dict[str, Any], base_run: Path) -> None:
    """Norms magnify rounding errors of the weights about tenfold."""
    assert measured(base_run)["optim/grad_norm"] == pytest.approx(golden["optim/grad_norm"], rel=10 * TOLERANCE), HINT


def test_batch_hashes_are_golden(golden: dict[str, Any], base_run: Path) -> None:
    assert measured(base_run)["data/batch_hash"] == golden["data/batch_hash"], HINT
