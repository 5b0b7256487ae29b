"""Reads a torch checkpoint's `.metadata`, which is a pickle, without running anything, and writes one.

The file holds torch's own records (`torch.distributed.checkpoint.metadata`). Unpickling calls whatever a file names. So
here every allowed name stands for an inert record that only keeps its arguments, and every other name ends the reading.
No class of torch or of any other package is ever looked up.
"""

from __future__ import annotations

import io
import pickle  # the architecture's test allows it in this file only
from pathlib import Path
from typing import Any

from harness.errors import CheckpointError
from harness.run.files import UNREADABLE, read_regular

METADATA_NAME = ".metadata"
UnpicklingError = pickle.UnpicklingError
"""Error that torch raises if its allow-list ends the reading of an object."""
MAX_METADATA_BYTES = 2 * 1024**3
"""A larger file is refused. One of 16,384 ranks and 1,000 tensors is smaller."""

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


class Inert:
    """A record of the file: the name of its class, and its arguments."""

    kind = ""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        """Keep the state, whatever it is."""
        self.state = state


def _record(name: str) -> type[Inert]:
    return type(name, (Inert,), {"kind": name})


def _member(owner: object, name: object) -> Inert:
    """Return the stand-in for a member of an enumeration. Python 3.11.0 to 3.11.4 pickle one as `getattr(class, name)`.

    It stands for nothing else: the attributes of other records, or names that are not members, would be calls.
    """
    if not (isinstance(owner, type) and issubclass(owner, Inert) and name in _MEMBERS.get(owner.kind, ())):
        raise CheckpointError(
            "its .metadata names builtins.getattr for something else than a member of an enumeration. Nothing of it "
            "was run. Do not use this checkpoint before you know who wrote it"
        )
    return owner(name)


_KNOWN: dict[tuple[str, str], object] = {
    ("builtins", "getattr"): _member,
    **{(module, name): _record(name) for module, names in _RECORDS.items() for name in names},
    **{("torch", name): name for name in _DTYPES},
    **{(module, name): _record("Path") for module in ("pathlib", "pathlib._local") for name in _PATHS},
    ("torch", "Size"): tuple,
    ("torch.serialization", "_get_layout"): str,
    ("collections", "OrderedDict"): dict,
}


class _InertUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 (pickle's signature)
        """Return the inert stand-in for a name in the file."""
        if (module, name) not in _KNOWN:
            raise CheckpointError(
                f"its .metadata names {ascii(f'{module}.{name}')[1:-1][:120]}, which is not part of a checkpoint's "
                "index. Nothing of it was run. Do not use this checkpoint before you know who wrote it"
            )
        return _KNOWN[module, name]

    def persistent_load(self, pid: object) -> Any:  # noqa: ANN401 (pickle's signature)
        """Refuse a reference to something outside of the file."""
        raise CheckpointError("its .metadata refers to something outside of the file")


def read_inert(path: Path) -> Inert:
    """Return the records of a `.metadata` file.

    Raises:
        CheckpointError: The file cannot be read, is too large, is not such a pickle, or names what is not allowed.
    """
    try:
        content = read_regular(path, MAX_METADATA_BYTES)
    except OSError as error:
        raise CheckpointError(f"its .metadata {UNREADABLE}: {error.strerror}") from error
    if len(content) > MAX_METADATA_BYTES:
        raise CheckpointError(f"its .metadata is larger than {MAX_METADATA_BYTES // 1024**3} GiB")
    try:
        loaded = _InertUnpickler(io.BytesIO(content)).load()
    except CheckpointError:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged pickle may raise anything)
        raise CheckpointError(f"its .metadata is damaged: {type(error).__name__}") from error
    if not isinstance(loaded, Inert) or loaded.kind != "Metadata":
        raise CheckpointError("its .metadata is not the index of a checkpoint")
    return loaded


def index_problem(folder: Path) -> str | None:
    """Return why a checkpoint's index must not be given to torch, which would run what it names; None if it may."""
    try:
        read_inert(folder / METADATA_NAME)
    except CheckpointError as error:
        return str(error)
    return None


def write_records(path: Path, records: object) -> None:
    """Write torch's own records as a `.metadata` file."""
    path.write_bytes(pickle.dumps(records))
