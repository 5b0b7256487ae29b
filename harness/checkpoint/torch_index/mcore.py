"""The index of a checkpoint as torch's own records, which torch's reader works by and torch's writer pickles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from harness.run.checkpoints.stored_index import Place, StoredIndex, StoredTensor, read_index

_VERSION = "1.0.0"
_known: dict[Path, Metadata] = {}


def torch_metadata(index: StoredIndex) -> Metadata:
    """Return the records of an index."""
    described: dict[str, STORAGE_TYPES] = {name: _described(tensor) for name, tensor in index.tensors.items()}
    described |= {name: BytesStorageMetadata() for name in index.objects}
    places = {
        MetadataIndex(name, chunk.offsets): _storage(chunk.place)
        for name, tensor in index.tensors.items()
        for chunk in tensor.chunks
    }
    places |= {MetadataIndex(name): _storage(place) for name, place in index.objects.items()}
    return Metadata(state_dict_metadata=described, storage_data=places, storage_meta=StorageMeta(), version=_VERSION)


def read_metadata(reader: Any, *_: object, **__: object) -> Metadata:  # noqa: ANN401 (torch's reader)
    """Return the records of a reader's checkpoint. Replaces torch's method, which unpickles what is there.

    An index that is known (`knowing`) is not read.

    Raises:
        CheckpointError: As `harness.run.checkpoints.stored_index.read_index`.
    """
    folder = Path(reader.path)
    found = _known.get(folder) or torch_metadata(read_index(folder))
    assert found.storage_meta is not None, "it was made here"
    found.storage_meta.load_id = reader.load_id
    return found


@contextmanager
def knowing(folder: Path, index: StoredIndex) -> Iterator[None]:
    """Take this for the index of a checkpoint in the `with` block: another rank has read it."""
    _known[folder] = torch_metadata(index)
    try:
        yield
    finally:
        del _known[folder]


def _described(tensor: StoredTensor) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        properties=TensorProperties(dtype=getattr(torch, tensor.dtype)),
        size=torch.Size(tensor.shape),
        chunks=[
            ChunkStorageMetadata(offsets=torch.Size(chunk.offsets), sizes=torch.Size(chunk.sizes))
            for chunk in tensor.chunks
        ],
    )


def _storage(place: Place) -> _StorageInfo:
    return _StorageInfo(place.file, place.offset, place.length)
