"""Tests of this folder run the small runs of tests/train on the parts of tests/data, and watch those of tests/watch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

for name in ("train", "data", "watch"):
    sys.path.append(str(Path(__file__).parents[1] / name))


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the three channels of the small runs."""
    from small_run import write_corpus

    return write_corpus(tmp_path_factory.mktemp("corpus"))
