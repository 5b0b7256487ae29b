"""The limits of what `torch.save` wrote, checked before torch reads it: a tensor, or an object beside the tensors.

Such a file is a zip archive of numbers and of one pickle that describes them. Torch's reader with `weights_only=True`
runs nothing of it, but takes as much time and memory as the pickle asks for: by packed records, by keys that take for
ever to hash, by calls that copy the same list again and again.
"""

from __future__ import annotations

import errno
import io
import zipfile
from typing import IO, BinaryIO, cast

from harness.errors import CheckpointError
from harness.plain_pickle import PickleError, Record, read_pickle

_PICKLE = "/data.pkl"
_MOST_RECORDS = 100_000
_COPYING = {"OrderedDict", "Counter", "bytearray", "set", "encode"}
"""Names that torch allows and whose calls make something of the size of an argument."""
_MOST_COPIES = 4
"""Times that all values of a pickle may be copied."""


class _AnyName:
    """All names: which of them may be called is for torch's allow-list to say."""

    def __contains__(self, name: object) -> bool:
        return True


class _Copies:
    """Counts what calls would copy."""

    def __init__(self, most: int) -> None:
        self._left = most

    def __call__(self, record: Record) -> None:
        if record.kind.name not in _COPYING:
            return
        for argument in record.arguments:
            if type(argument) is int:  # a number of bytes
                self._left -= abs(argument)
            elif type(argument) in (str, list, tuple, dict):
                self._left -= len(argument)
        if self._left < 0:
            raise PickleError("asks for more memory than it has bytes")


def require_bounded(file: BinaryIO | io.RawIOBase) -> None:
    """Check that torch can read a file in time and memory that follow from its size; the file is then at its begin.

    Raises:
        CheckpointError: It cannot, or the file is not such an archive. The text completes "the file …".
        OSError: From the disk.
    """
    try:
        with zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
            _require_plain(archive.infolist())
            names = [name for name in archive.namelist() if name.endswith(_PICKLE)]
            if len(names) != 1:
                raise CheckpointError("is not an archive of torch")
            content = archive.read(names[0])
        read_pickle(content, _AnyName(), _Copies(_MOST_COPIES * len(content)))
    except PickleError as error:
        raise CheckpointError(f"is damaged: its pickle {error}") from None
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError, EOFError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # the disk, not a place before the begin
            raise
        raise CheckpointError(f"is not an archive of torch ({type(error).__name__})") from None
    file.seek(0)


def _require_plain(records: list[zipfile.ZipInfo]) -> None:
    if len(records) > _MOST_RECORDS or len({record.filename for record in records}) != len(records):
        raise CheckpointError("is not an archive of torch")
    if any(
        record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size for record in records
    ):
        raise CheckpointError("has packed records, which torch does not write")
