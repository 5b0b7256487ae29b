"""The small files that every rank needs to load a checkpoint, as rank 0 has read them: no other rank opens them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from harness.checkpoint.objections import COMMON_NAME, FORMAT_NAME, MAX_COMMON_BYTES, MAX_FORMAT_BYTES
from harness.checkpoint.state.mcore import HAS_COMMON_FILE
from harness.json_text import parse_json
from harness.parallel import cpu
from harness.parallel.megatron_changes import replace
from harness.run.files import read_regular

cpu.prepare()

from megatron.core.dist_checkpointing import core, validation  # noqa: E402 (the CPU must be prepared first)
from megatron.core.dist_checkpointing.strategies import common  # noqa: E402


class SmallFiles(NamedTuple):
    """The files of a checkpoint that Megatron reads besides its index and those of tensors."""

    format: dict[str, Any]
    """Fields of `metadata.json`."""
    common: bytes | None
    """Content of `common.pt`; None for versions that have none."""


def read_small_files(folder: Path) -> SmallFiles:
    """Read the small files of a checkpoint to which nobody objects (`harness.checkpoint.objections`).

    Raises:
        OSError: The disk refuses one.
        ValueError: One is not valid JSON.
    """
    found = parse_json(read_regular(folder / FORMAT_NAME, MAX_FORMAT_BYTES))
    content = read_regular(folder / COMMON_NAME, MAX_COMMON_BYTES) if HAS_COMMON_FILE else None
    return SmallFiles(found, content)


_known: dict[Path, SmallFiles] = {}


@contextmanager
def knowing_small_files(folder: Path, files: SmallFiles) -> Iterator[None]:
    """Let Megatron take these for the small files of a checkpoint in the `with` block."""
    _known[folder] = files
    try:
        yield
    finally:
        del _known[folder]


_load_config, _owner = core.maybe_load_config, validation if HAS_COMMON_FILE else core


def _known_config(folder: str | Path) -> Any:  # noqa: ANN401 (Megatron's type)
    files = _known.get(Path(folder))
    if files is None:
        return _load_config(folder)
    known = {field.name for field in fields(core.CheckpointingConfig)}  # other versions write more of them
    return core.CheckpointingConfig(**{key: value for key, value in files.format.items() if key in known})


replace(_owner, "maybe_load_config", _known_config)

if HAS_COMMON_FILE:
    _load_common = common.TorchCommonLoadStrategy.load_common

    def _known_common(strategy: Any, folder: str | Path) -> Any:  # noqa: ANN401 (Megatron's types)
        files = _known.get(Path(folder))
        if files is None or files.common is None:
            return _load_common(strategy, folder)
        return torch.load(io.BytesIO(files.common), map_location="cpu", weights_only=True)

    replace(common.TorchCommonLoadStrategy, "load_common", _known_common)
