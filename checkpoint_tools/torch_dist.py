"""Reads tensors out of a `torch_dist` checkpoint in place, one by one: no process group, no model, no GPU.

`.metadata` says for every tensor its shape, its number format and its chunks: for each chunk its place in the tensor,
and the file, the offset and the length where `torch.save` wrote it. A chunk is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.checkpoint.metadata_pickle import Inert, read_inert
from harness.errors import CheckpointError
from harness.run.files import open_regular

METADATA_NAME = ".metadata"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats that weights may have."""
_SHARD_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.distcp")

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A block of a tensor, and where it is stored."""

    offsets: Shape
    sizes: Shape
    file: str
    file_offset: int
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of the checkpoint: its chunks cover it exactly once."""

    shape: Shape
    dtype: str
    chunks: tuple[Chunk, ...]


def read_index(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint whose small files have been verified, without objects that are not tensors.

    Raises:
        CheckpointError: `.metadata` is damaged, names what it must not, or does not describe whole tensors.
    """
    try:
        return _index_of(read_inert(folder / METADATA_NAME))
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {folder} cannot be read: {error}.") from error


def read_region(folder: Path, tensor: StoredTensor, offsets: Shape, sizes: Shape) -> torch.Tensor:
    """Read a block of a tensor, and only the chunks that overlap it.

    Raises:
        CheckpointError: A chunk is not what the index says.
    """
    whole = next((chunk for chunk in tensor.chunks if (chunk.offsets, chunk.sizes) == (offsets, sizes)), None)
    if whole is not None:
        return read_chunk(folder, tensor, whole)
    result = torch.empty(sizes, dtype=DTYPES[tensor.dtype])
    for chunk in tensor.chunks:
        start = tuple(max(a, b) for a, b in zip(offsets, chunk.offsets, strict=True))
        ends = zip(offsets, sizes, chunk.offsets, chunk.sizes, strict=True)
        stop = tuple(min(a + m, b + n) for a, m, b, n in ends)
        if any(a >= b for a, b in zip(start, stop, strict=True)):
            continue
        loaded = read_chunk(folder, tensor, chunk)
        result[_slices(start, stop, offsets)] = loaded[_slices(start, stop, chunk.offsets)]
    return result


def _slices(start: Shape, stop: Shape, origin: Shape) -> tuple[slice, ...]:
    return tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, origin, strict=True))


def read_chunk(folder: Path, tensor: StoredTensor, chunk: Chunk) -> torch.Tensor:
    """Read a chunk of a tensor.

    Raises:
        CheckpointError: It is not what the index says.
    """
    place = f"{chunk.file} at byte {chunk.file_offset:,}"
    try:
        with os.fdopen(open_regular(folder / chunk.file), "rb") as file:
            content = os.pread(file.fileno(), chunk.num_bytes, chunk.file_offset)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{folder / chunk.file} cannot be read: {error.strerror}.") from error
    except Exception as error:  # noqa: BLE001 (damaged files raise many kinds)
        raise CheckpointError(
            f"Checkpoint {folder} is damaged: {place} is not a tensor ({type(error).__name__})."
        ) from error
    if not isinstance(loaded, torch.Tensor) or loaded.dtype != DTYPES[tensor.dtype]:
        raise CheckpointError(f"Checkpoint {folder} is damaged: {place} is not a {tensor.dtype} tensor.")
    if loaded.numel() != math.prod(chunk.sizes):
        raise CheckpointError(
            f"Checkpoint {folder} is damaged: {place} holds {loaded.numel():,} numbers, "
            f"its index says {math.prod(chunk.sizes):,}."
        )
    return loaded.reshape(chunk.sizes)


def _index_of(metadata: Inert) -> dict[str, StoredTensor]:
    fields = _fields(metadata, "Metadata")
    places: dict[tuple[str, Shape], Mapping[str, Any]] = {}
    for key, storage in fields["storage_data"].items():
        index = _fields(key, "MetadataIndex")
        places[index["fqn"], tuple(index.get("offset") or ())] = _fields(storage, "_StorageInfo")
    return {
        str(name): _tensor(str(name), _fields(record, "TensorStorageMetadata"), places)
        for name, record in fields["state_dict_metadata"].items()
        if record.kind == "TensorStorageMetadata"
    }


def _tensor(
    name: str, record: Mapping[str, Any], places: Mapping[tuple[str, Shape], Mapping[str, Any]]
) -> StoredTensor:
    shape = tuple(record["size"])
    dtype = record["properties"].state[0]
    chunks = tuple(_chunk(name, _fields(chunk, "ChunkStorageMetadata"), places) for chunk in record["chunks"])
    if len({chunk.offsets for chunk in chunks}) != len(chunks):
        raise CheckpointError(f"a chunk of {name} is there twice")
    inside = all(
        min(a, n) >= 0 and a + n <= size
        for chunk in chunks
        for a, n, size in zip(chunk.offsets, chunk.sizes, shape, strict=True)
    )
    if not inside or sum(math.prod(chunk.sizes) for chunk in chunks) != math.prod(shape):
        raise CheckpointError(f"the chunks of {name} do not make up its shape {list(shape)}")
    return StoredTensor(shape=shape, dtype=str(dtype), chunks=chunks)


def _chunk(name: str, record: Mapping[str, Any], places: Mapping[tuple[str, Shape], Mapping[str, Any]]) -> Chunk:
    offsets = tuple(record["offsets"])
    place = places.get((name, offsets))
    if place is None:
        raise CheckpointError(f"the chunk of {name} at {list(offsets)} is in no file")
    if not _SHARD_NAME.fullmatch(str(place["relative_path"])) or place.get("transform_descriptors"):
        raise CheckpointError(f"the chunk of {name} at {list(offsets)} is in {ascii(place['relative_path'])[:80]}")
    return Chunk(
        offsets=offsets,
        sizes=tuple(record["sizes"]),
        file=str(place["relative_path"]),
        file_offset=int(place["offset"]),
        num_bytes=int(place["length"]),
    )


def _fields(record: Any, kind: str) -> Mapping[str, Any]:  # noqa: ANN401 (what a file holds)
    if not isinstance(record, Inert) or record.kind != kind or not isinstance(record.state, dict):
        raise CheckpointError(f"its .metadata has no {kind} where one belongs")
    return record.state
