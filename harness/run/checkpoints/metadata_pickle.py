"""Reads a torch checkpoint's `.metadata`, which is a pickle, without running anything, and writes one.

The file holds torch's own records (`torch.distributed.checkpoint.metadata`). Nothing that it names is looked up: every
allowed name makes an inert record that only keeps its arguments, and every other name ends the reading. Torch itself
never reads the file here: it gets what `harness.run.checkpoints.stored_index` makes of these records.
"""

from __future__ import annotations

import pickle  # the architecture's test allows it in this file only; it writes
from pathlib import Path

from harness.errors import CheckpointError
from harness.plain_pickle import Name, NameRefusedError, PickleError, Record, read_pickle
from harness.run.files import UNREADABLE, read_regular

METADATA_NAME = ".metadata"
UnpicklingError = pickle.UnpicklingError
"""Error that torch raises if its allow-list ends the reading of an object."""
MAX_METADATA_BYTES = 512 * 1024**2
"""A larger file is refused. One of a million chunks of tensors has a third of it."""

_RECORDS = {
    "torch.distributed.checkpoint.filesystem": ("_StorageInfo",),
    "torch.distributed.checkpoint.metadata": (
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    ),
    "torch.distributed.checkpoint.planner": ("SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"),
}
_MEMBERS = {
    "_MEM_FORMAT_ENCODING": ("TORCH_CONTIGUOUS_FORMAT", "TORCH_CHANNELS_LAST", "TORCH_PRESERVE_FORMAT"),
    "WriteItemType": ("TENSOR", "SHARD", "BYTE_IO"),
}
_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_PATHS = ("PosixPath", "PurePosixPath", "Path")
_GETATTR = ("builtins", "getattr")

_KNOWN = frozenset(
    (
        *((module, name) for module, names in _RECORDS.items() for name in names),
        *(("torch", name) for name in (*_DTYPES, "Size")),
        *((module, name) for module in ("pathlib", "pathlib._local") for name in _PATHS),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        _GETATTR,
    )
)


def read_records(path: Path) -> Record:
    """Return the records of a `.metadata` file: the one of torch's `Metadata`, which holds all others.

    Raises:
        CheckpointError: The file cannot be read, is too large, is not such a pickle, or names what is not allowed.
    """
    try:
        content = read_regular(path, MAX_METADATA_BYTES)
    except OSError as error:
        raise CheckpointError(f"its .metadata {UNREADABLE}: {error.strerror}") from error
    if len(content) > MAX_METADATA_BYTES:
        raise CheckpointError(f"its .metadata is larger than {MAX_METADATA_BYTES // 1024**2} MiB")
    try:
        found = read_pickle(content, _KNOWN, _require_no_call)
    except NameRefusedError as error:
        raise CheckpointError(
            f"its .metadata names {ascii(error.name)[1:-1][:120]}, which is not part of a checkpoint's index. Nothing "
            "of it was run. Do not use this checkpoint before you know who wrote it"
        ) from None
    except PickleError as error:
        raise CheckpointError(f"its .metadata is damaged: it {error}") from None
    if not is_record(found, "Metadata"):
        raise CheckpointError("its .metadata is not the index of a checkpoint")
    assert isinstance(found, Record), "it is a record"
    return found


def is_record(value: object, kind: str) -> bool:
    """Return whether a value of the file is a record of one of torch's classes."""
    return type(value) is Record and value.kind.name == kind


def _require_no_call(record: Record) -> None:
    """Refuse `getattr` of something else than a member of an enumeration.

    Python 3.11.0 to 3.11.4 pickle one as `getattr(class, name)`. The attributes of other records, or names that are not
    members, would be calls.
    """
    if (record.kind.module, record.kind.name) != _GETATTR:
        return
    owner, name = record.arguments if len(record.arguments) == 2 else (None, None)
    if type(owner) is not Name or type(name) is not str or name not in _MEMBERS.get(owner.name, ()):
        raise NameRefusedError(f"{record.kind} for something else than a member of an enumeration")


def write_records(path: Path, records: object) -> None:
    """Write torch's own records as a `.metadata` file."""
    path.write_bytes(pickle.dumps(records))
