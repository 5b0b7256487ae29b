"""Writes the weights of a model as `torch_dist` files, tensor by tensor: no process group, no model.

Equal parameters of all layers are one stacked tensor `[L, …]`, with a chunk for each layer, as Megatron writes them;
where only some layers have experts, each layer's parameters are tensors of their own.

A file is finished when its record exists, so that it is not written again after an interruption. The record is written
last, and lists the contents of the file.

```
RECORDS/__0_3.distcp.json   [{"name": …, "shape": […], "dtype": …, "chunk": {"offsets": […], …}}, …]
```
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from checkpoint_tools.index.mcore import write_index
from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.torch_dist import DTYPES
from harness.config.model import ModelConfig
from harness.parameters.names import LAYERS, split_layer
from harness.progress import Progress, silent
from harness.run.checkpoints.stored_index import Chunk, Place, StoredTensor
from harness.run.checkpoints.tiling import Shape
from harness.run.files import replace_file

NAMES_PER_FILE = 64
"""Tensors in one file: files are what is written at once, and what an interruption loses."""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredChunk:
    """A chunk that was written: its tensor's name in the checkpoint, the tensor's shape and format, the chunk."""

    name: str
    shape: Shape
    dtype: str
    chunk: Chunk


_RECORD = TypeAdapter(list[StoredChunk])

Read = Callable[[str], torch.Tensor]
"""A tensor of ours by its numbered name."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """All weights of a model, to be read one by one."""

    model: ModelConfig
    names: Sequence[str]
    """Our numbered names."""
    read: Read


def write_checkpoint(
    folder: Path,
    weights: Weights,
    *,
    records: Path | None = None,
    num_workers: int = 1,
    progress: Progress = silent,
) -> int:
    """Write all tensors of a model into a folder; only the manifest is left to its owner.

    The folder is empty, or left over from an interruption of the same call. Without a folder for `records` an
    interrupted writing begins anew. Each of the workers needs the memory of one tensor and its copy. `progress` hears
    of the bytes that were written, or were there.

    Returns:
        Bytes that were there from before an interruption.

    Raises:
        OSError: From the disk.
    """
    names = weights.names
    groups = [names[start : start + NAMES_PER_FILE] for start in range(0, len(names), NAMES_PER_FILE)]
    paths = [folder / f"__0_{number}.distcp" for number in range(len(groups))]
    before = {path: found for path in paths if records and (found := _recorded(records, path)) is not None}
    progress(kept_bytes := sum(item.chunk.place.length for found in before.values() for item in found))

    def write(path: Path, group: Sequence[str]) -> list[StoredChunk]:
        if path in before:
            return before[path]
        stored = _write_file(path, group, weights, progress, sync=records is not None)
        return stored if records is None else _record(records, path, stored)

    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        stored = [chunk for found in pool.map(write, paths, groups) for chunk in found]
    write_index(folder, _joined(stored))
    return kept_bytes


def write_first_layers(ours: OurTensors, folder: Path, num_layers: int) -> ModelConfig:
    """Write the model that is made of a checkpoint's first layers, and return its description."""
    model = ours.model.with_layers(range(num_layers))
    names = [name for name in ours.names if (split_layer(name)[0] or 0) < num_layers]
    write_checkpoint(folder, Weights(model=model, names=names, read=ours.read))
    return model


def _record(records: Path, file: Path, stored: list[StoredChunk]) -> list[StoredChunk]:
    """Record that a file, whose content is on disk, is finished; return it as a resumed conversion will read it."""
    replace_file(records / f"{file.name}.json", _RECORD.dump_json(stored))
    # Read again, so that what is made of it has the same bytes with and without an interruption.
    found = _recorded(records, file)
    assert found is not None, f"the record of {file} does not describe it"
    return found


def _recorded(records: Path, file: Path) -> list[StoredChunk] | None:
    """Return the contents of a file that is finished and still whole; None for any other."""
    path = records / f"{file.name}.json"
    if not path.exists() or not file.exists():
        return None
    try:
        stored = _RECORD.validate_json(path.read_bytes())
    except ValueError:  # damaged: the file is written again
        return None
    return stored if file.stat().st_size == sum(item.chunk.place.length for item in stored) else None


def _write_file(
    path: Path, names: Iterable[str], weights: Weights, progress: Progress, *, sync: bool
) -> list[StoredChunk]:
    stored: list[StoredChunk] = []
    with path.open("wb") as file:
        for name in names:
            tensor = weights.read(name)
            layer, rest = split_layer(name) if weights.model.has_equal_layers else (None, name)
            shape = tuple(tensor.shape)
            block = tensor if layer is None else tensor[None]
            content = io.BytesIO()
            torch.save(_alone(block), content)
            chunk = Chunk(
                offsets=(0,) * len(shape) if layer is None else (layer, *(0,) * len(shape)),
                sizes=tuple(block.shape),
                place=Place(file=path.name, offset=file.tell(), length=content.tell()),
            )
            file.write(content.getbuffer())
            whole = shape if layer is None else (weights.model.num_layers, *shape)
            own_name = name if layer is None else LAYERS + rest
            stored.append(StoredChunk(own_name, whole, _DTYPE_NAMES[tensor.dtype], chunk))
            progress(tensor.numel() * tensor.itemsize)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    return stored


def _alone(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with its own storage, because a save writes the whole storage."""
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _joined(stored: Iterable[StoredChunk]) -> dict[str, StoredTensor]:
    chunks: dict[str, list[StoredChunk]] = {}
    for item in stored:
        chunks.setdefault(item.name, []).append(item)
    for name, items in chunks.items():
        kinds = {(item.shape, item.dtype) for item in items}
        assert len(kinds) == 1, f"the layers of {name} differ: {kinds}"
    return {
        name: StoredTensor(shape=items[0].shape, dtype=items[0].dtype, chunks=tuple(item.chunk for item in items))
        for name, items in chunks.items()
    }
