"""A Hugging Face model's folder in `harness checkpoint inspect` and `diff`, which otherwise are about checkpoints."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.text import size_text, table


def is_model_folder(path: Path) -> bool:
    """Return whether a folder holds a Hugging Face model and no checkpoint."""
    return (path / "config.json").is_file() and not (path / MANIFEST_NAME).is_file()


def inspected(path: Path) -> dict[str, Any]:
    """Return the contents of a folder: family, model, and every tensor with its shape, format, file and size.

    Raises:
        CheckpointError: it is damaged, or of a model that is not known here.
    """
    from checkpoint_tools.their_tensors import open_model

    theirs = open_model(path)
    tensors: dict[str, dict[str, Any]] = {}
    for name in theirs.names:
        shape, dtype = theirs.described(name)
        tensors[name] = {
            "shape": list(shape),
            "dtype": str(dtype).removeprefix("torch."),
            "file": theirs.files[name],
            "bytes": math.prod(shape) * dtype.itemsize,
        }
    return {
        "path": str(path),
        "family": theirs.family.model_type,
        "architecture": theirs.family.architecture,
        "model": theirs.model.model_dump(mode="json"),
        "tensors": tensors,
    }


def inspected_text(path: Path) -> str:
    """Return the contents of a folder as text."""
    found = inspected(path)
    tensors: dict[str, dict[str, Any]] = found["tensors"]
    rows = [(name, str(t["shape"]), t["dtype"], t["file"], size_text(t["bytes"])) for name, t in tensors.items()]
    fields = ", ".join(f"{name} {json.dumps(value)}" for name, value in found["model"].items() if value is not None)
    total = size_text(sum(tensor["bytes"] for tensor in tensors.values()))
    head = f"{path}\n{found['architecture']}, a Hugging Face model\nmodel: {fields}\n{len(tensors)} tensors, {total}\n"
    return f"{head}\n{table([('tensor', 'shape', 'format', 'file', 'size'), *rows])}"


def difference_text(first: Path, second: Path, *, as_json: bool) -> tuple[int, str]:
    """Return the number and the names of weights and settings that differ; either model may be a checkpoint.

    Tensors go by our names, without the padding of the vocabulary; a checkpoint's optimizer state is left aside.

    Raises:
        CheckpointError: one of them is damaged, or has tensors that the other has not.
    """
    from checkpoint_tools.compare_models import differences, open_either

    one, other = open_either(first), open_either(second)
    found = differences(one, other)
    if as_json:
        return len(found), json.dumps({item.name: {"verdict": "different", "detail": item.what} for item in found})
    rows = [("weight or setting", "difference"), *((item.name, item.what) for item in found)]
    last = f"{len(one.names)} weights compared, {len(found)} differences"
    return len(found), "\n".join([*([table(rows)] if found else []), last])
