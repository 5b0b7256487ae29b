"""Findings of rank 0 on the disk, for which the others wait for as long as it takes, or hash files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from harness.parallel.errands import Errands
from harness.parallel.ranks import Ranks
from harness.run.checkpoints.contents import file_records
from harness.run.checkpoints.manifest import FileRecord
from harness.run.checkpoints.verify import HashFiles

Found = TypeVar("Found")
_RECORDS = TypeAdapter(dict[str, FileRecord])


def found_by_rank_0(ranks: Ranks, find: Callable[[HashFiles], Found]) -> Found | None:
    """Return what rank 0 finds, on rank 0; None elsewhere. Every rank must call it.

    `find` gets a function by which all ranks hash files. They wait for as long as it takes, and not in a collective.
    """
    errands = Errands(ranks.world)
    if not ranks.is_writer:
        errands.attend(_hashed)
        return None
    with errands.leading(_hashed) as hand_out:

        def hash_files(folder: Path, names: Collection[str], with_sha256: bool) -> dict[str, FileRecord]:
            parts = shares(names, ranks.world.size)
            given = hand_out({rank: [str(folder), part, with_sha256] for rank, part in parts.items()})
            records: dict[str, FileRecord] = {}
            for rank in sorted(given):
                records |= _records(given[rank])
            return records

        return find(hash_files)


def shares(names: Collection[str], num_ranks: int) -> dict[int, list[str]]:
    """Return the files that each rank hashes; ranks with none are left out.

    The files that ranks have written are alike in size, so each gets every `num_ranks`-th of them.
    """
    ordered = sorted(names)
    return {rank: ordered[rank::num_ranks] for rank in range(min(num_ranks, len(ordered)))}


def _hashed(errand: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    folder, names, with_sha256 = errand
    try:
        records = file_records(Path(folder), names, with_sha256=with_sha256)
    except OSError as error:
        return {"refused": [error.errno, error.strerror, error.filename]}
    return {"records": _RECORDS.dump_python(records, mode="json")}


def _records(given: Mapping[str, Any]) -> dict[str, FileRecord]:
    """Return the records that a rank gave.

    Raises:
        OSError: The disk refused it a file.
    """
    if "refused" in given:
        raise OSError(*given["refused"])
    return _RECORDS.validate_python(given["records"])
