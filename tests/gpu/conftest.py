"""Tests of this folder need a GPU: `make gpu PART=tests`. Without one they are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pretended import PRETENDED, end_if_pretended

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU"))


@pytest.fixture(autouse=True)
def _values_of_a_pretended_gpu_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    if PRETENDED:
        monkeypatch.setattr(torch.testing, "assert_close", end_if_pretended)


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda", 0)
