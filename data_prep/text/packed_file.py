"""Opens an input file as its plain bytes, however it is packed."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import IO, BinaryIO, cast

from data_prep.text.file_kinds import kind_of
from data_prep.text.input_file import InputFile, open_bytes
from data_prep.text.zstandard_file import ZstandardFile
from harness.errors import DataError, UsageError

LARGEST_WINDOW_BYTES = 2**31
"""The most that zstandard's format allows (`zstd --long=31`); unasked the library refuses more than 128 MiB."""


@contextmanager
def open_plain(file: InputFile, place: Callable[[], str]) -> Iterator[tuple[IO[bytes], BinaryIO]]:
    """Give the plain bytes of a file, and the file as it is stored.

    `place` says how far it was read (`line 17`), for the message about a damaged one.

    Raises:
        DataError: The file cannot be read to its end: damaged or truncated, or an I/O error.
        UsageError: The file is zstandard and the package is not installed.
    """
    unpacked, damage = _unpacking(file)
    unreadable: tuple[type[Exception], ...] = (OSError, EOFError, *damage)
    try:
        with open_bytes(file) as raw, unpacked(raw) as stream:
            yield stream, raw
    except unreadable as error:
        raise DataError(
            f"{file}: cannot be read beyond {place()} ({error}). The file is damaged or cut short: fetch or "
            "compress it again."
        ) from error


def _unpacking(file: InputFile) -> tuple[Callable[[BinaryIO], IO[bytes]], tuple[type[Exception], ...]]:
    """Return a function that opens such a file, and the exceptions (beyond I/O errors) that damage raises."""
    kind = kind_of(file.name)
    packing = kind.packing if kind else "plain"
    if packing == "gz":
        return lambda raw: cast("IO[bytes]", gzip.open(raw, "rb")), (zlib.error,)
    if packing == "bz2":
        return lambda raw: cast("IO[bytes]", bz2.open(raw, "rb")), ()
    if packing == "xz":
        return lambda raw: cast("IO[bytes]", lzma.open(raw, "rb")), (lzma.LZMAError,)
    if packing == "zst":
        library = zstandard_library(file, "reading")
        frames = library.ZstdDecompressor(max_window_size=LARGEST_WINDOW_BYTES)
        return lambda raw: io.BufferedReader(ZstandardFile(raw, frames.decompressobj)), (library.ZstdError,)
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
            "Install it, or pack the file with gzip."
        ) from error
