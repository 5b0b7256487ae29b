"""Writes the small files of a `torch_dist` checkpoint: torch's index of its tensors, and Megatron's own two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from harness.checkpoint.torch_index.mcore import torch_metadata
from harness.run.checkpoints.metadata_pickle import METADATA_NAME, write_records
from harness.run.checkpoints.stored_index import StoredIndex, StoredTensor

_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
_FORMAT_OF_COMMON = {"common_backend": "torch", "common_backend_version": 1}


def write_index(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Complete a folder whose shards are written, so that Megatron can load it under any layout.

    Raises:
        OSError: From the disk.
    """
    write_records(folder / METADATA_NAME, torch_metadata(StoredIndex(tensors=tensors)))
    torch.save({}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(_FORMAT | _FORMAT_OF_COMMON))
