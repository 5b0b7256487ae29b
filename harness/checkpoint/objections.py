"""Objections to a checkpoint whose files are as its manifest says: whoever wrote both may have written anything."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from harness.checkpoint.archives import require_bounded
from harness.errors import CheckpointError
from harness.json_text import parse_json
from harness.run.checkpoints.stored_index import read_index
from harness.run.files import UNREADABLE, open_regular, read_regular

COMMON_NAME, FORMAT_NAME = "common.pt", "metadata.json"
MAX_COMMON_BYTES = 256 * 1024**2
"""A larger `common.pt` is refused: it holds the settings of the optimizer."""
MAX_FORMAT_BYTES = 64 * 1024
_FORMAT = {"sharded_backend": str, "sharded_backend_version": int, "common_backend": str, "common_backend_version": int}
"""Keys of `metadata.json`, and the kinds of their values."""
OBJECT_MARK = "/shard_"
"""Stands between the name of an object and which of its shards it is."""
_OBJECT_NAME = re.compile(r"[^/]+/shard_[0-9]{1,15}(\.[0-9]{1,15})*_[0-9]{1,15}(\.[0-9]{1,15})*")


def objection_to(folder: Path) -> str | None:
    """Return why Megatron must not be given a checkpoint, or could not read it; None if it may."""
    try:
        index = read_index(folder)
        wrong = next((name for name in index.objects if not _OBJECT_NAME.fullmatch(name)), None)
        if wrong is not None:
            raise CheckpointError(f"its .metadata names an object {ascii(wrong)[:80]}, which is no shard of one")
        _require_format(folder / FORMAT_NAME)
        if (folder / COMMON_NAME).exists():
            _require_common(folder / COMMON_NAME)
    except CheckpointError as error:
        return str(error)
    except OSError as error:
        return f"{Path(str(error.filename or folder)).name} {UNREADABLE}: {error.strerror}"
    return None


def _require_format(path: Path) -> None:
    """Check the file by which Megatron chooses its reader."""
    try:
        content = read_regular(path, MAX_FORMAT_BYTES)
        fields = parse_json(content)
    except ValueError as error:
        raise CheckpointError(f"{path.name} is not valid JSON: {error}") from None
    if not isinstance(fields, dict) or fields.get("sharded_backend") != "torch_dist":
        raise CheckpointError(f"{path.name} does not say that the checkpoint is of the format torch_dist")
    for key, value in fields.items():
        if key not in _FORMAT or (value is not None and type(value) is not _FORMAT[key]):
            raise CheckpointError(f"{path.name} has {ascii(key)[:40]}: {ascii(value)[:40]}, which no version writes")


def _require_common(path: Path) -> None:
    with os.fdopen(open_regular(path), "rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_COMMON_BYTES:
            raise CheckpointError(f"{path.name} is larger than {MAX_COMMON_BYTES // 1024**2} MiB")
        try:
            require_bounded(file)
        except CheckpointError as error:
            raise CheckpointError(f"{path.name} {error}") from None
        try:
            found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # noqa: BLE001 (damaged files raise many kinds)
            cause = str(error).splitlines()[0][:200] if str(error) else ""
            raise CheckpointError(
                f"{path.name} is damaged, or holds what is not part of a checkpoint ({type(error).__name__}: {cause}). "
                "Nothing of it was run"
            ) from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path.name} does not hold the common state of a checkpoint")
