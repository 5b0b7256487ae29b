"""Prints torch's view of this machine as one line of JSON: `python -m harness.doctor.probe`.

Runs as a process of its own. Importing torch or Transformer Engine takes seconds, and may crash the interpreter when
driver and library disagree. Neither may happen to the process that reports it.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def probe() -> dict[str, Any]:
    """Return versions and devices; `errors` has the reason for each installed module that cannot be imported."""
    errors: dict[str, str] = {}
    seen: dict[str, Any] = {"errors": errors}
    if torch := _imported("torch", errors):
        seen |= _torch_facts(torch)
    for name in ("megatron.core", "transformer_engine.pytorch"):
        _imported(name, errors)
    return seen


def _imported(name: str, errors: dict[str, str]) -> Any:  # noqa: ANN401 (a module whose members are not known here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            errors[name] = str(error)
    except Exception as error:  # noqa: BLE001 (a broken installation raises anything, and that is the finding)
        errors[name] = f"{type(error).__name__}: {error}"
    return None


def _torch_facts(torch: Any) -> dict[str, Any]:  # noqa: ANN401
    has_gpu = torch.cuda.is_available()
    nccl = torch.cuda.nccl.version() if torch.version.cuda else None
    properties = [
        torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count() if has_gpu else 0)
    ]
    return {
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None,
        "nccl": ".".join(map(str, nccl)) if nccl else None,
        "gpus": [{"name": each.name, "memory_bytes": each.total_memory} for each in properties],
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe()) + "\n")
