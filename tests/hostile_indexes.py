"""Indexes of checkpoints that say what no index says, in checkpoints whose manifests fit."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.run.checkpoints.contents import contents, file_records
from harness.run.checkpoints.manifest import read_manifest, write_manifest

Change = Callable[[Any], None]
"""Changes torch's `Metadata` of a checkpoint, of which the first tensor has at least one chunk."""


def fit_manifest(folder: Path) -> None:
    """Make the manifest one of the files that are there, as whoever wrote them could."""
    records = file_records(folder, contents(folder).files)
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": records}))


def rewrite_index(folder: Path, change: Change) -> None:
    """Change the index of a checkpoint."""
    path = folder / ".metadata"
    metadata = pickle.loads(path.read_bytes())  # noqa: S301 (written by this test)
    change(metadata)
    path.write_bytes(pickle.dumps(metadata))
    fit_manifest(folder)


def first(metadata: Any) -> tuple[str, Any]:
    """Name and record of a tensor."""
    return next((name, each) for name, each in metadata.state_dict_metadata.items() if hasattr(each, "chunks"))


def of_place(**changes: Any) -> Change:
    """Changes where a chunk of a tensor is."""

    def change(metadata: Any) -> None:
        name, _ = first(metadata)
        key = next(key for key in metadata.storage_data if key.fqn == name)
        metadata.storage_data[key] = replace(metadata.storage_data[key], **changes)

    return change


def of_tensor(**changes: Any) -> Change:
    """Changes the description of a tensor."""

    def change(metadata: Any) -> None:
        name, record = first(metadata)
        metadata.state_dict_metadata[name] = replace(record, **changes)

    return change


def of_chunk(**changes: Any) -> Change:
    """Changes the description of a chunk of a tensor."""

    def change(metadata: Any) -> None:
        _, record = first(metadata)
        record.chunks[0] = replace(record.chunks[0], **changes)

    return change


def of_all(**changes: Any) -> Change:
    """Changes the index itself."""

    def change(metadata: Any) -> None:
        for name, value in changes.items():
            setattr(metadata, name, value)

    return change


def halves_that_overlap(metadata: Any) -> None:
    """Two chunks of the size of the tensor together, of which the second begins within the first."""
    import torch
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    name, record = next((n, r) for n, r in metadata.state_dict_metadata.items() if hasattr(r, "size") and r.size[0] > 3)
    half = torch.Size((record.size[0] // 2, *record.size[1:]))
    rest = torch.Size((record.size[0] - half[0], *record.size[1:]))
    zero, inside = torch.Size([0] * len(half)), torch.Size((1, *[0] * (len(half) - 1)))
    record.chunks[:] = [ChunkStorageMetadata(zero, half), ChunkStorageMetadata(inside, rest)]
    place = metadata.storage_data[MetadataIndex(name, zero)]
    metadata.storage_data[MetadataIndex(name, zero)] = replace(place, length=place.length // 2)
    second = replace(place, offset=place.offset + place.length // 2, length=place.length - place.length // 2)
    metadata.storage_data[MetadataIndex(name, inside)] = second


def first_half_only(metadata: Any) -> None:
    """A chunk of a half of the tensor, and nothing else."""
    import torch

    _, record = first(metadata)
    chunk = record.chunks[0]
    record.chunks[:] = [replace(chunk, sizes=torch.Size((chunk.sizes[0] // 2, *chunk.sizes[1:])))]


def same_bytes_twice(metadata: Any) -> None:
    """Two tensors that lie on the same bytes."""
    keys = list(metadata.storage_data)
    metadata.storage_data[keys[0]] = metadata.storage_data[keys[1]]


def another_name(name: Any) -> Change:
    """Gives a tensor another name."""

    def change(metadata: Any) -> None:
        old, record = first(metadata)
        metadata.state_dict_metadata[name] = record
        del metadata.state_dict_metadata[old]

    return change


class NoShape(list[int]):
    """In the place of a `torch.Size`."""


CHANGES: dict[str, Change] = {
    "a file above": of_place(relative_path="../../x.distcp"),
    "a file by its path": of_place(relative_path="/etc/passwd"),
    "a file below": of_place(relative_path="more/x.distcp"),
    "a file of another kind": of_place(relative_path="manifest.json"),
    "a file that is not there": of_place(relative_path="__9_9.distcp"),
    "a file whose name ends early": of_place(relative_path="__0_0.distcp\0"),
    "a file without a name": of_place(relative_path=None),
    "a file with a number": of_place(relative_path=7),
    "a transformation": of_place(transform_descriptors=("zstd",)),
    "an offset before the begin": of_place(offset=-1),
    "an offset behind the end": of_place(offset=10**6),
    "an absurd offset": of_place(offset=2**70),
    "an offset as text": of_place(offset="0"),
    "an offset that is true": of_place(offset=True),
    "a length below zero": of_place(length=-1),
    "a length of nothing": of_place(length=0),
    "a length beyond the end": of_place(length=10**12),
    "a length with a fraction": of_place(length=1.5),
    "no shape": of_tensor(size=None),
    "a shape that is a list": of_tensor(size=[4, 4]),
    "no properties": of_tensor(properties=None),
    "no chunks": of_tensor(chunks=[]),
    "chunks that are no list": of_tensor(chunks={}),
    "a chunk that is none": of_tensor(chunks=[None]),
    "a chunk without a place": of_chunk(offsets=None),
    "a chunk without a size": of_chunk(sizes=None),
    "no tensors at all": of_all(state_dict_metadata=None),
    "tensors as a list": of_all(state_dict_metadata=[]),
    "no places": of_all(storage_data=None),
    "places of nothing": of_all(storage_data={}),
    "a tensor that is a number": of_all(state_dict_metadata={"a": 1}),
    "a place that is a number": of_all(storage_data={"a": 1}),
    "a name that is a number": another_name(5),
    "a name of two lines": another_name("a\nb"),
    "a name that is too long": another_name("a" * 5000),
    "chunks that overlap, with a hole": halves_that_overlap,
    "a half that is missing": first_half_only,
    "the same bytes twice": same_bytes_twice,
}
