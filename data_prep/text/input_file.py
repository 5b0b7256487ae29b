"""An input file: a local one, or one at an address (`s3://bucket/zh/0.jsonl.gz`), which fsspec reads."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, cast

from harness.errors import UsageError


@dataclass(frozen=True)
class RemoteFile:
    """A file at an fsspec address."""

    address: str
    """With its protocol, as in `s3://bucket/zh/0.jsonl.gz`."""

    def __str__(self) -> str:
        return self.address

    @property
    def name(self) -> str:
        """The last piece of the address."""
        return PurePosixPath(self.address).name


InputFile: TypeAlias = Path | RemoteFile


def file_bytes(file: InputFile) -> int:
    """Return the size of an input file as stored (compressed, if it is)."""
    if isinstance(file, Path):
        return file.stat().st_size
    system, path = file_system(file.address)
    return int(system.size(path))


def open_bytes(file: InputFile) -> BinaryIO:
    """Open an input file for reading."""
    if isinstance(file, Path):
        return file.open("rb")
    system, path = file_system(file.address)
    return cast("BinaryIO", system.open(path, "rb"))


def file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system behind an address, and the path in it.

    Raises:
        UsageError: A package is missing, or there is no such kind of address.
    """
    try:
        fsspec = importlib.import_module("fsspec.core")
    except ImportError as error:
        raise UsageError(
            f"input {address}: reading an address needs the Python package fsspec, which is not installed. Install "
            "the project with its `data-fast` extra, or copy the files here and name their paths."
        ) from error
    try:
        system, path = fsspec.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"input {address}: this kind of address cannot be read ({error}). Install the package it needs, or copy "
            "the files here and name their paths."
        ) from error
    return system, str(path)
