"""Brings the records of all ranks' files to rank 0, in one sum of numbers whatever the number of ranks.

Shapes: R ranks, W words of 64 bits of a record: size, XXH3, and four of SHA-256.
"""

from __future__ import annotations

import torch

from harness.checkpoint.counted import Records
from harness.parallel import collectives
from harness.parallel.ranks import Place
from harness.run.checkpoints.manifest import FileRecord

_HEX_DIGITS = 16
_SHA256_WORDS = 4
_WORDS = 2 + _SHA256_WORDS


def file_of(rank: int) -> str:
    """Return the name of the one file that a rank writes, if it writes any."""
    return f"__{rank}_0.distcp"


def at_rank_0(own: Records, world: Place, device: torch.device) -> Records:
    """Return the records of all ranks on rank 0, and nothing elsewhere. Every rank must call it."""
    assert own.keys() <= {file_of(world.rank)}, f"rank {world.rank} has written {sorted(own)}"
    rows_RW = torch.zeros(world.size, _WORDS, dtype=torch.int64)
    for record in own.values():
        rows_RW[world.rank] = torch.tensor(_words_of(record), dtype=torch.int64)
    rows_RW = collectives.sum_at_rank_0(rows_RW.to(device))
    if world.rank:
        return {}
    return {file_of(rank): _record_of(words) for rank, words in enumerate(rows_RW.tolist()) if any(words)}


def _words_of(record: FileRecord) -> list[int]:
    digits = record.xxh3 + (record.sha256 or "0" * _HEX_DIGITS * _SHA256_WORDS)
    numbers = [int(digits[begin : begin + _HEX_DIGITS], 16) for begin in range(0, len(digits), _HEX_DIGITS)]
    return [record.bytes, *(number - 2**64 if number >= 2**63 else number for number in numbers)]


def _record_of(words: list[int]) -> FileRecord:
    size, *hashes = words
    xxh3, *sha256 = (f"{word % 2**64:016x}" for word in hashes)
    return FileRecord(bytes=size, xxh3=xxh3, sha256="".join(sha256) if any(words[2:]) else None)
