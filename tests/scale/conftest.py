"""Tests of this folder run the small runs of tests/train on the parts of tests/data."""

from __future__ import annotations

import sys
from pathlib import Path

for name in ("train", "data"):
    sys.path.append(str(Path(__file__).parents[1] / name))
