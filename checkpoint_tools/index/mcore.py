"""Writes the small files of a `torch_dist` checkpoint: torch's index of its tensors, and Megatron's own two."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import _StorageInfo

from checkpoint_tools.torch_dist import DTYPES, METADATA_NAME, StoredTensor
from harness.checkpoint.metadata_pickle import write_records

_FORMAT = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
_FORMAT_OF_COMMON = {"common_backend": "torch", "common_backend_version": 1}


def write_index(folder: Path, tensors: Mapping[str, StoredTensor]) -> None:
    """Complete a folder whose shards are written, so that Megatron can load it under any layout.

    Raises:
        OSError: From the disk.
    """
    described: dict[str, metadata.STORAGE_TYPES] = {name: _described(tensor) for name, tensor in tensors.items()}
    places = {
        metadata.MetadataIndex(name, chunk.offsets): _StorageInfo(chunk.file, chunk.file_offset, chunk.num_bytes)
        for name, tensor in tensors.items()
        for chunk in tensor.chunks
    }
    index = metadata.Metadata(
        state_dict_metadata=described, storage_data=places, storage_meta=metadata.StorageMeta(), version="1.0.0"
    )
    write_records(folder / METADATA_NAME, index)
    torch.save({}, folder / "common.pt")
    (folder / "metadata.json").write_text(json.dumps(_FORMAT | _FORMAT_OF_COMMON))


def _described(tensor: StoredTensor) -> metadata.TensorStorageMetadata:
    return metadata.TensorStorageMetadata(
        properties=metadata.TensorProperties(dtype=DTYPES[tensor.dtype]),
        size=torch.Size(tensor.shape),
        chunks=[
            metadata.ChunkStorageMetadata(offsets=torch.Size(chunk.offsets), sizes=torch.Size(chunk.sizes))
            for chunk in tensor.chunks
        ],
    )
