"""Writes the weights of a model as `torch_dist` files, tensor by tensor: no process group, no model.

Equal parameters of all layers are one stacked tensor `[L, …]`, with a chunk for each layer, as Megatron writes them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from checkpoint_tools.index.mcore import write_index
from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.torch_dist import DTYPES, Chunk, StoredTensor
from harness.config.schema import ModelConfig
from harness.progress import Progress, silent

NAMES_PER_FILE = 64
"""Tensors in one file: files are what is written at once."""
_LAYER = re.compile(r"(decoder\.layers\.)([0-9]+)\.(.+)")
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Read = Callable[[str], torch.Tensor]
"""A tensor of ours by its numbered name."""


class _Stored(NamedTuple):
    """A chunk that was written: its tensor's name in the checkpoint, the tensor's shape and format, the chunk."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunk: Chunk


def write_checkpoint(
    folder: Path,
    model: ModelConfig,
    names: Sequence[str],
    read: Read,
    *,
    num_workers: int = 1,
    progress: Progress = silent,
) -> None:
    """Writes all tensors of a model into an empty folder; only the manifest is left to its owner.

    Args:
        folder: Where to write.
        model: The model.
        names: Our numbered names of all its tensors.
        read: Gives each of them.
        num_workers: Files written at once; each needs the memory of one tensor and its copy.
        progress: Hears of the bytes that were written.

    Raises:
        OSError: from the disk.
    """
    groups = [names[start : start + NAMES_PER_FILE] for start in range(0, len(names), NAMES_PER_FILE)]
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        jobs = [
            pool.submit(_write_shard, folder / f"__0_{number}.distcp", group, read, model, progress)
            for number, group in enumerate(groups)
        ]
        stored = [chunk for job in jobs for chunk in job.result()]
    write_index(folder, _joined(stored))


def write_first_layers(ours: OurTensors, folder: Path, num_layers: int) -> ModelConfig:
    """Writes the model that is made of a checkpoint's first layers, and returns its description."""
    model = ours.model.model_copy(update={"num_layers": num_layers})
    names = [name for name in ours.names if _layer(name) < num_layers]
    write_checkpoint(folder, model, names, ours.read)
    return model


def _write_shard(path: Path, names: Iterable[str], read: Read, model: ModelConfig, progress: Progress) -> list[_Stored]:
    stored: list[_Stored] = []
    with path.open("wb") as file:
        for name in names:
            tensor = read(name)
            match = _LAYER.fullmatch(name)
            shape = tuple(tensor.shape)
            layer = int(match[2]) if match else None
            block = tensor if layer is None else tensor[None]
            content = io.BytesIO()
            torch.save(block.clone(memory_format=torch.contiguous_format), content)
            chunk = Chunk(
                offsets=(0,) * len(shape) if layer is None else (layer, *(0,) * len(shape)),
                sizes=tuple(block.shape),
                file=path.name,
                file_offset=file.tell(),
                num_bytes=content.tell(),
            )
            file.write(content.getbuffer())
            whole = shape if layer is None else (model.num_layers, *shape)
            stored.append(_Stored(match[1] + match[3] if match else name, whole, _DTYPE_NAMES[tensor.dtype], chunk))
            progress(tensor.numel() * tensor.itemsize)
    return stored


def _joined(stored: Iterable[_Stored]) -> dict[str, StoredTensor]:
    chunks: dict[str, list[_Stored]] = {}
    for item in stored:
        chunks.setdefault(item.name, []).append(item)
    for name, items in chunks.items():
        kinds = {(item.shape, item.dtype) for item in items}
        assert len(kinds) == 1, f"the layers of {name} differ: {kinds}"
    return {
        name: StoredTensor(shape=items[0].shape, dtype=items[0].dtype, chunks=tuple(item.chunk for item in items))
        for name, items in chunks.items()
    }


def _layer(name: str) -> int:
    match = _LAYER.fullmatch(name)
    return int(match[2]) if match else -1
