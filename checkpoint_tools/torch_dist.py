"""Reads tensors out of a `torch_dist` checkpoint in place, one by one: no process group, no model, no GPU.

The index is read and checked by `harness.run.checkpoints.stored_index`. A chunk is read with `weights_only=True`.
"""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import torch

from harness.checkpoint.archives import require_bounded
from harness.errors import CheckpointError
from harness.run.checkpoints import stored_index
from harness.run.checkpoints.stored_index import BYTES_OF, Chunk, StoredTensor
from harness.run.checkpoints.tiling import Shape
from harness.run.files import open_regular

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Number formats that weights may have."""
_FORMATS = {name: getattr(torch, name) for name in BYTES_OF}


def read_index(folder: Path) -> dict[str, StoredTensor]:
    """Return all tensors of a checkpoint whose small files have been verified, without objects that are not tensors.

    Raises:
        CheckpointError: `.metadata` is damaged, names what it must not, or does not describe whole tensors.
    """
    try:
        return dict(stored_index.read_index(folder).tensors)
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
    result = torch.empty(sizes, dtype=_FORMATS[tensor.dtype])  # filled by the chunks, which leave out nothing
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
    place = f"{chunk.place.file} at byte {chunk.place.offset:,}"
    try:
        with os.fdopen(open_regular(folder / chunk.place.file), "rb") as file:
            file.seek(chunk.place.offset)
            content = file.read(chunk.place.length)
        require_bounded(io.BytesIO(content))
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{folder / chunk.place.file} cannot be read: {error.strerror}.") from error
    except CheckpointError as error:
        raise CheckpointError(f"Checkpoint {folder} is damaged: {place} is not a tensor: it {error}.") from None
    except Exception as error:  # noqa: BLE001 (damaged files raise many kinds)
        raise CheckpointError(
            f"Checkpoint {folder} is damaged: {place} is not a tensor ({type(error).__name__})."
        ) from error
    is_plain = isinstance(loaded, torch.Tensor) and loaded.layout == torch.strided and loaded.device.type == "cpu"
    if not is_plain or loaded.dtype != _FORMATS[tensor.dtype]:
        raise CheckpointError(f"Checkpoint {folder} is damaged: {place} is not a {tensor.dtype} tensor.")
    if loaded.numel() != math.prod(chunk.sizes):
        raise CheckpointError(
            f"Checkpoint {folder} is damaged: {place} holds {loaded.numel():,} numbers, "
            f"its index says {math.prod(chunk.sizes):,}."
        )
    reshaped: torch.Tensor = loaded.reshape(chunk.sizes)
    return reshaped
