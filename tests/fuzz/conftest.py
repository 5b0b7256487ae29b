"""The fuzzer shares small runs, models and tokenizers with the tests of the trainer, of data preparation and others."""

from __future__ import annotations

import sys
from pathlib import Path

for name in ("train", "checkpoint", "faults", "data_prep", "checkpoint_tools"):
    sys.path.append(str(Path(__file__).parents[1] / name))
