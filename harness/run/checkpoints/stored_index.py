"""The index of a `torch_dist` checkpoint, checked before anything is read by it: tensors, objects, and their places.

`.metadata` says for every tensor its shape, its number format and its chunks: for each chunk its place in the tensor,
and the file, the offset and the length where `torch.save` wrote it. Whoever reads a tensor by an index from here reads
regular files of the checkpoint only, and gets every number exactly once.
"""

from __future__ import annotations

import math
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.plain_pickle import Name
from harness.run.checkpoints.metadata_pickle import METADATA_NAME, is_record, read_records
from harness.run.checkpoints.tiling import Shape, is_tiled
from harness.run.files import UNREADABLE

MOST_NUMBER = 2**53
"""A size, an offset or a number of elements above this one is damage."""
MOST_DIMENSIONS = 16
MOST_NAME_LENGTH = 512
BYTES_OF = {
    **{"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "float16": 2, "int16": 2},
    **{"int8": 1, "uint8": 1, "bool": 1},
}
"""Number formats of tensors, and the bytes of a number."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\.distcp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Bytes in a file of the checkpoint."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """A block of a tensor, and where it is stored."""

    offsets: Shape
    sizes: Shape
    place: Place


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor of the checkpoint: its chunks cover it exactly once."""

    shape: Shape
    dtype: str
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, kw_only=True)
class StoredIndex:
    """All that a checkpoint holds."""

    tensors: Mapping[str, StoredTensor]
    objects: Mapping[str, Place] = field(default_factory=dict)
    """Pickled objects beside the tensors, such as random states."""
    num_bytes: Mapping[str, int] = field(default_factory=dict)
    """The least size of each file, from the places in it."""


_Places = Mapping[tuple[str, Shape], Place]


def read_index(folder: Path) -> StoredIndex:
    """Return the index of a checkpoint, after checking that its files have what it names.

    Raises:
        CheckpointError: `.metadata` cannot be read, names what it must not, does not describe whole tensors, or names
            bytes that are not there.
    """
    index = described_index(folder)
    for name, least in index.num_bytes.items():
        try:
            status = (folder / name).lstat()
        except OSError as error:
            raise CheckpointError(f"{name}, which its .metadata names, {UNREADABLE}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{name}, which its .metadata names, is not a regular file")
        if status.st_size < least:
            raise CheckpointError(f"{name} has {status.st_size:,} bytes, its .metadata names {least:,}")
    return index


def described_index(folder: Path) -> StoredIndex:
    """Return the index of a checkpoint, without a look at the files that it names.

    Raises:
        CheckpointError: As `read_index`, but for these files.
    """
    path = folder / METADATA_NAME
    try:
        status = path.lstat()
    except OSError as error:
        raise CheckpointError(f"its .metadata {UNREADABLE}: {error.strerror}") from error
    # A start of training asks several times, and the index of a large checkpoint takes seconds.
    return _index_in(path, (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))


@lru_cache(maxsize=2)
def _index_in(path: Path, _state: tuple[int, ...]) -> StoredIndex:
    """Return the index in a file, in the state that its status tells."""
    metadata = _fields(read_records(path), "Metadata")
    places = _places(_mapping(metadata.get("storage_data")))
    tensors: dict[str, StoredTensor] = {}
    objects: dict[str, Place] = {}
    for name, record in _mapping(metadata.get("state_dict_metadata")).items():
        _checked_name(name)
        if is_record(record, "BytesStorageMetadata"):
            objects[name] = _place_of(places, name, ())
        else:
            tensors[name] = _tensor(name, _fields(record, "TensorStorageMetadata"), places)
    return StoredIndex(tensors=tensors, objects=objects, num_bytes=_num_bytes(places.values()))


def _places(stored: Mapping[Any, Any]) -> _Places:
    places: dict[tuple[str, Shape], Place] = {}
    for key, record in stored.items():
        index, storage = _fields(key, "MetadataIndex"), _fields(record, "_StorageInfo")
        name, offset = _checked_name(index.get("fqn")), index.get("offset")
        offsets = () if offset is None else _shape(offset, f"the offset of {name}")
        file = storage.get("relative_path")
        if type(file) is not str or not _FILE_NAME.fullmatch(file) or storage.get("transform_descriptors"):
            raise CheckpointError(f"the chunk of {name} at {list(offsets)} is in {ascii(file)[:80]}")
        if (name, offsets) in places:
            raise CheckpointError(f"its .metadata says twice where the chunk of {name} at {list(offsets)} is")
        places[name, offsets] = Place(
            file=file,
            offset=_count(storage.get("offset"), f"the place of {name}"),
            length=_count(storage.get("length"), f"the length of {name}"),
        )
    return places


def _tensor(name: str, fields: Mapping[str, Any], places: _Places) -> StoredTensor:
    shape = _shape(fields.get("size"), f"the shape of {name}")
    dtype = _dtype(name, fields.get("properties"))
    chunks = fields.get("chunks")
    if type(chunks) is not list:
        raise CheckpointError(f"its .metadata has no chunks of {name}")
    found = tuple(_chunk(name, _fields(chunk, "ChunkStorageMetadata"), places) for chunk in chunks)
    if len({chunk.offsets for chunk in found}) != len(found):
        raise CheckpointError(f"a chunk of {name} is there twice")
    if any(len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape) for chunk in found) or not is_tiled(
        shape, [(chunk.offsets, chunk.sizes) for chunk in found]
    ):
        raise CheckpointError(f"the chunks of {name} do not make up its shape {list(shape)} exactly once")
    for chunk in found:
        if chunk.place.length < math.prod(chunk.sizes) * BYTES_OF[dtype]:
            raise CheckpointError(
                f"the chunk of {name} at {list(chunk.offsets)} has {chunk.place.length:,} bytes, too few for "
                f"{math.prod(chunk.sizes):,} numbers of {dtype}"
            )
    return StoredTensor(shape=shape, dtype=dtype, chunks=found)


def _chunk(name: str, fields: Mapping[str, Any], places: _Places) -> Chunk:
    offsets = _shape(fields.get("offsets"), f"the place of a chunk of {name}")
    sizes = _shape(fields.get("sizes"), f"the shape of a chunk of {name}")
    return Chunk(offsets=offsets, sizes=sizes, place=_place_of(places, name, offsets))


def _place_of(places: _Places, name: str, offsets: Shape) -> Place:
    place = places.get((name, offsets))
    if place is None:
        raise CheckpointError(f"the chunk of {name} at {list(offsets)} is in no file")
    return place


def _dtype(name: str, properties: object) -> str:
    """Return the number format of a tensor, as torch's `TensorProperties` hold it: first of five."""
    state = properties.state if is_record(properties, "TensorProperties") else None  # type: ignore[attr-defined]
    dtype = state[0] if type(state) is tuple and state else None
    if type(dtype) is not Name or dtype.name not in BYTES_OF:
        raise CheckpointError(f"its .metadata gives {name} no number format that is known")
    return dtype.name


def _shape(value: Any, what: str) -> Shape:  # noqa: ANN401 (what a file holds)
    numbers = value.arguments[0] if is_record(value, "Size") and len(value.arguments) == 1 else None
    if type(numbers) is not tuple or len(numbers) > MOST_DIMENSIONS:
        raise CheckpointError(f"its .metadata is damaged: {what} is none")
    shape = tuple(_count(number, what) for number in numbers)
    if math.prod(shape) > MOST_NUMBER:
        raise CheckpointError(f"its .metadata is damaged: {what} is {list(shape)}")
    return shape


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_NUMBER:
        raise CheckpointError(
            f"its .metadata is damaged: {what} is {ascii(value)[:40] if _is_plain(value) else 'none'}"
        )
    return value


def _is_plain(value: object) -> bool:
    return value is None or type(value) in (int, float, bool)


def _checked_name(name: object) -> str:
    if type(name) is not str or not 0 < len(name) <= MOST_NAME_LENGTH or not name.isprintable():
        raise CheckpointError(f"its .metadata gives a tensor the name {ascii(name)[:80] if type(name) is str else '?'}")
    return name


def _mapping(value: object) -> Mapping[Any, Any]:
    if type(value) is not dict:
        raise CheckpointError("its .metadata lacks the list of its tensors, or of their places")
    return value


def _fields(record: Any, kind: str) -> Mapping[str, Any]:  # noqa: ANN401 (what a file holds)
    if not is_record(record, kind) or record.arguments or type(record.state) is not dict:
        raise CheckpointError(f"its .metadata has no {kind} where one belongs")
    return dict(record.state)


def _num_bytes(places: Iterable[Place]) -> dict[str, int]:
    """Return the least size of each file. Refuses bytes that belong to two chunks."""
    sizes: dict[str, int] = {}
    for place in sorted(places, key=lambda place: (place.file, place.offset)):
        if place.length and place.offset < sizes.get(place.file, 0):
            raise CheckpointError(f"its .metadata gives bytes of {place.file} from {place.offset:,} on to two chunks")
        sizes[place.file] = max(place.offset + place.length, sizes.get(place.file, 0))
    return sizes
