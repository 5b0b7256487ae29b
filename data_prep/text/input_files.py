"""Finds the input files that arguments name: local files, folders and patterns, or addresses of a file system far away.

An address (`s3://bucket/zh/*.jsonl.gz`) is read through fsspec, which is imported only then.
"""

from __future__ import annotations

import glob
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, cast

from harness.errors import DataError, UsageError

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")


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

    @property
    def suffix(self) -> str:
        """Ending of the name, with its dot."""
        return PurePosixPath(self.address).suffix


InputFile: TypeAlias = Path | RemoteFile


def file_bytes(file: InputFile) -> int:
    """Return the size of an input file as stored (compressed, if it is)."""
    if isinstance(file, Path):
        return file.stat().st_size
    system, path = _file_system(file.address)
    return int(system.size(path))


def open_bytes(file: InputFile) -> BinaryIO:
    """Open an input file for reading."""
    if isinstance(file, Path):
        return file.open("rb")
    system, path = _file_system(file.address)
    return cast("BinaryIO", system.open(path, "rb"))


def find_inputs(arguments: Sequence[str]) -> list[InputFile]:
    """Return the files named by the arguments (files, folders, patterns, addresses), sorted, without hidden folders.

    Raises:
        UsageError: An argument names nothing, a file of another kind, a file that another argument names too, or an
            address for which a package is missing.
        DataError: The file system behind an address does not answer.
    """
    files: list[InputFile] = []
    for argument in arguments:
        found = _find_remote(argument) if "://" in argument else list[InputFile](_find_local(argument))
        if not found:
            raise UsageError(
                f"no input at {argument}: no such file, or no {', '.join(SUFFIXES)} file in the folder or under the "
                "pattern. Check the path."
            )
        files.extend(found)
    seen: set[InputFile] = set()
    for file in files:
        identity = file.resolve() if isinstance(file, Path) else file
        if identity in seen:
            raise UsageError(f"input {file} is named twice: its documents would be doubled. Name every file once.")
        seen.add(identity)
    return files


def _find_local(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES))
        # Hidden folders hold what a program is still working with.
        return [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if path.is_file():
        _check_suffix(argument)
        return [path]
    # Path.glob takes no absolute patterns, glob.glob does.
    matches = (Path(match) for match in glob.glob(argument, recursive=True))  # noqa: PTH207
    return sorted(match for match in matches if match.is_file() and match.name.endswith(SUFFIXES))


def _find_remote(address: str) -> list[InputFile]:
    system, path = _file_system(address)
    try:
        if system.isfile(path):
            _check_suffix(address)
            return [RemoteFile(system.unstrip_protocol(path))]
        names = system.find(path) if system.isdir(path) else system.glob(path)
        found = sorted(name for name in names if name.endswith(SUFFIXES) and system.isfile(name))
        return [RemoteFile(system.unstrip_protocol(name)) for name in found]
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - every file system has errors of its own
        raise DataError(
            f"input {address}: the file system does not answer ({type(error).__name__}: {error}). "
            "Check the address, the credentials and the network."
        ) from error


def _check_suffix(name: str) -> None:
    if not name.endswith(SUFFIXES):
        raise UsageError(f"input {name}: the name must end in one of {', '.join(SUFFIXES)}.")


def _file_system(address: str) -> tuple[Any, str]:
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
