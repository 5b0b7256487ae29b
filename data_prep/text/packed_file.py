"""Opens an input file as its plain bytes, however it is packed."""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import IO, BinaryIO

from data_prep.text.file_kinds import any_kind_of
from data_prep.text.input_file import InputFile, open_bytes
from harness.errors import DataError, UsageError
from harness.expansion import ExpansionError
from harness.packed_stream import Gunzip, PackedStream

LARGEST_WINDOW_BYTES = 2**31
"""The most that zstandard's format allows (`zstd --long=31`); unasked the library refuses more than 128 MiB. A small
file does not fill it: see `harness.expansion`."""
LARGEST_DICTIONARY_BYTES = 256 << 20
"""Memory that xz may take: four times what `xz -9` needs."""


_BEGINNINGS = {
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zst",
    **{bytes((0x50 + number, 0x2A, 0x4D, 0x18)): "zst" for number in range(16)},
    b"PAR1": "parquet",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"\x04\x22\x4d\x18": "lz4",
}
"""The first bytes of packed files (and of Parquet), and the usual ending of their names."""
_BEGINNING_BYTES = 16


@contextmanager
def open_plain(file: InputFile, place: Callable[[], str]) -> Iterator[tuple[IO[bytes], BinaryIO]]:
    """Give the plain bytes of a file, and the file as it is stored.

    `place` says how far it was read (`line 17`), for the message about a damaged one.

    Raises:
        DataError: The file cannot be read to its end: damaged or truncated, empty though it is packed, packed
            otherwise than its name says, for far more bytes than text has, or an I/O error.
        UsageError: The file is zstandard and the package is not installed.
    """
    unpacked, damage = _unpacking(file)
    unreadable: tuple[type[Exception], ...] = (OSError, EOFError, *damage)
    try:
        with open_bytes(file) as raw:
            _check_beginning(file, raw)
            with unpacked(raw) as stream:
                yield stream, raw
    except ExpansionError as error:
        raise DataError(f"{file}: {error}.") from error
    except unreadable as error:
        if isinstance(error, lzma.LZMAError) and "emory usage limit" in str(error):
            raise DataError(
                f"{file}: needs more than {LARGEST_DICTIONARY_BYTES >> 20} MiB of memory to unpack, because it was "
                "packed with a larger dictionary. Pack it again with `xz -9` or less."
            ) from error
        raise DataError(
            f"{file}: cannot be read beyond {place()} ({error}). The file is damaged or cut short: fetch or "
            "compress it again."
        ) from error


def check_beginning(file: InputFile) -> None:
    """Refuse a file whose first bytes tell that it is not what its name says.

    Raises:
        DataError: It is packed otherwise, or empty though it is packed, or cannot be opened.
    """
    try:
        with open_bytes(file) as raw:
            _check_beginning(file, raw)
    except OSError as error:
        raise DataError(
            f"{file}: cannot be read ({error.strerror or error}). Correct its permissions, or leave it out."
        ) from error


def _check_beginning(file: InputFile, raw: BinaryIO) -> None:
    kind = any_kind_of(file.name)
    if kind is None or kind.content == "parquet":
        return
    beginning = raw.read(_BEGINNING_BYTES)
    raw.seek(0)
    if not beginning and kind.packing != "plain":
        raise DataError(
            f"{file}: cannot be read beyond line 0 (it has 0 bytes, and a packed file without any text has more). The "
            "file is damaged or cut short: fetch or compress it again, or leave it out."
        )
    found = _packing_of(beginning)
    if found not in (None, kind.packing):
        named = "not packed" if kind.packing == "plain" else kind.packing
        known = found in ("gz", "bz2", "xz", "zst", "parquet")
        advice = f"Give it a name that ends in .{found}" if known else "Unpack it, and name what was in it"
        raise DataError(f"{file}: its content is {found}, though by its name it is {named}. {advice}.")


def _packing_of(beginning: bytes) -> str | None:
    """Return the usual ending of files that begin so; None for plain text and whatever else."""
    found = next((ending for start, ending in _BEGINNINGS.items() if beginning.startswith(start)), None)
    # "BZh" could be text: behind it come a digit and the first block, or the end of a file without any.
    is_text = found == "bz2" and beginning[4:10] not in (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")
    return None if is_text else found


def _unpacking(file: InputFile) -> tuple[Callable[[BinaryIO], IO[bytes]], tuple[type[Exception], ...]]:
    """Return a function that opens such a file, and the exceptions (beyond I/O errors) that damage raises."""
    kind = any_kind_of(file.name)
    packing = kind.packing if kind else "plain"
    if packing == "gz":
        return lambda raw: io.BufferedReader(PackedStream(raw, Gunzip, has_padding=True)), (zlib.error,)
    if packing == "bz2":
        return lambda raw: io.BufferedReader(PackedStream(raw, bz2.BZ2Decompressor)), ()
    if packing == "xz":
        start = partial(lzma.LZMADecompressor, memlimit=LARGEST_DICTIONARY_BYTES)
        unpacked = partial(PackedStream, start_piece=start, has_padding=True)
        return lambda raw: io.BufferedReader(unpacked(raw)), (lzma.LZMAError,)
    if packing == "zst":
        library = zstandard_library(file, "reading")
        frames = library.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES)
        return lambda raw: io.BufferedReader(PackedStream(raw, frames.decompressobj)), (library.ZstdError,)
    return lambda raw: raw, ()


def zstandard_library(file: InputFile, doing: str) -> ModuleType:
    """Import the library for zstandard.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("zstandard")
    except ImportError as error:
        raise UsageError(
            f"{file}: {doing} it needs the Python package zstandard, which is not installed. "
            "Install the project with its `data` extra, or pack the file with gzip."
        ) from error
