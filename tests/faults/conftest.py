"""The campaign shares runs and disk faults with the tests of the trainer and of the checkpoint store."""

from __future__ import annotations

import sys
from pathlib import Path

for name in ("train", "checkpoint"):
    sys.path.append(str(Path(__file__).parents[1] / name))
