"""Python imports this at its start, and it changes a few modules as they are imported.

What is changed, and why, stands in the other files of this folder. Nothing is imported before it is needed.
"""

import importlib
import importlib.abc
import importlib.util
import os
import sys

TRANSFORMER_ENGINE = "transformer_engine.pytorch.attention.dot_product_attention"
CHANGES = {
    "torch": ("pretended_torch", "change"),
    f"{TRANSFORMER_ENGINE}.utils": ("pretended_transformer_engine", "change_choice"),
    f"{TRANSFORMER_ENGINE}.backends": ("pretended_transformer_engine", "change_attention"),
    "harness.train.components.mcore": ("pretended_harness", "change_numbers_of_a_step"),
    "harness.optim.mcore": ("pretended_harness", "change_norms_of_the_state"),
}
"""By the module that is changed: where the function is that changes it, and its name."""


class Changes(importlib.abc.MetaPathFinder):
    """Calls the function of `CHANGES` when the module that it changes has been loaded."""

    def find_spec(self, name, path=None, target=None):  # noqa: ANN001, ANN201, D102 (as importlib says)
        if name not in CHANGES:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module):  # noqa: ANN001, ANN202
                load(module)
                place, function = CHANGES[name]
                getattr(importlib.import_module(place), function)(module)

            spec.loader.exec_module = exec_module
        return spec


if os.environ.get("PRETENDED_GPU"):
    sys.meta_path.insert(0, Changes())
