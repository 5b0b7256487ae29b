"""What forks of the tests begin with: imported by the process that is forked, and left out of collections.

Megatron collects garbage at each save, which costs more than all else of a save of a small model while the objects of
the libraries are searched too.
"""

from __future__ import annotations

import gc
import importlib
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import pytest  # noqa: F401

    import harness.launch.local
    import harness.train.main
    import harness.train.worker
    import harness.watch.daemon  # noqa: F401

    importlib.import_module("torch._dynamo")  # as the first step of an optimizer does

gc.collect()
gc.freeze()
