"""On a pretended GPU (`tests/fakegpu`) a test runs up to the first comparison of values, and is reported as skipped."""

from __future__ import annotations

import os

import pytest

PRETENDED = bool(os.environ.get("PRETENDED_GPU"))


def end_if_pretended(*_values: object, **_tolerances: object) -> None:
    """Ends the test where nothing that follows can be judged."""
    if PRETENDED:
        pytest.skip("ran to its end; values not compared, because the GPU is pretended")
