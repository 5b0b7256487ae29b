"""Measures attention in long samples on a CPU: with a mask, by documents, and on one of two ranks that share samples.

    python -m benchmarks.attention [--longest 131072] [--document 2048] [--threads 1]

Forward and backward of one layer's attention, each measurement in a process of its own, which tells its own peak. The
mask is the usual way to keep documents apart: torch's fused attention with an S×S matrix of bits. A rank of two has the
first and the last quarter of the queries, and all keys, as behind the collective that gathers them. Then the cost of
packing: a sample of 1, 10 and 1,000 documents, beside the same documents one after the other.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch.nn import functional

from harness.model.attention.bounds import Documents, documents_at, stretches_of
from harness.model.attention.core import attend, attend_documents, attend_stretch
from harness.parallel.ranks import Place

SHORTEST = 4096
LONGEST_MASK = 32768
"""A mask of more tokens, and the scores that torch makes of it, do not fit a small machine."""
HEADS, GROUPS, HEAD_SIZE = 4, 2, 64
PACKED_LENGTH = 16384
ROUNDS = {1: 3, 10: 15, 1000: 41}
"""Times that samples of so many documents are measured; what takes less time is measured more often."""
Inputs = list[torch.Tensor]


def write(line: str) -> None:
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def inputs(length: int, queries: int | None = None) -> Inputs:
    """Queries, keys and values of one sample: `[S, 1, heads, size]`."""
    generator = torch.Generator().manual_seed(length)
    sizes = ((queries or length, HEADS), (length, GROUPS), (length, GROUPS))
    return [torch.randn(tokens, 1, heads, HEAD_SIZE, generator=generator) for tokens, heads in sizes]


def documents_of(length: int, longest: int) -> Documents:
    """Documents of equal length."""
    starts = torch.tensor([*range(0, length, longest), length], dtype=torch.int32)
    return documents_at(starts)


def masked(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, documents: Documents) -> torch.Tensor:
    """Attention with a matrix of which tokens see which."""
    places = torch.arange(len(query))
    numbers = torch.bucketize(places, documents.starts, right=True)
    sees_SS = (numbers[:, None] == numbers) & (places[:, None] >= places)
    parts = [x.permute(1, 2, 0, 3) for x in (query, key, value)]
    return functional.scaled_dot_product_attention(*parts, attn_mask=sees_SS, enable_gqa=True).permute(2, 0, 1, 3)


def shared(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, borders: list[int]) -> torch.Tensor:
    """Attention of the first of two ranks."""
    stretches = stretches_of(len(key), 1, Place(rank=0, size=2), borders)
    return torch.cat([attend_stretch(query[stretch.rows], key, value, stretch) for stretch in stretches])


def way_of(name: str, length: int, document: int) -> tuple[Callable[..., torch.Tensor], Inputs]:
    """Return what is measured under a name, and what it is given."""
    documents = documents_of(length, document)
    borders: list[int] = documents.starts.tolist()
    half = inputs(length, length // 2) if name.startswith("rank of 2") else inputs(length)
    ways: dict[str, Callable[..., torch.Tensor]] = {
        "mask": lambda *x: masked(*x, documents),
        "documents": lambda *x: attend_documents(*x, documents),
        "sample": attend,
        "rank of 2, documents": lambda *x: shared(*x, borders),
        "rank of 2, sample": lambda *x: shared(*x, [0, length]),
    }
    return ways[name], half


def peak_bytes() -> int:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None, "Linux says it"
    return 1024 * int(found[1])


def seconds_of(attention: Callable[..., torch.Tensor], given: Inputs) -> float:
    """Seconds of forward and backward."""
    fresh = [x.clone().requires_grad_() for x in given]
    begun = time.perf_counter()
    output = attention(*fresh)
    output.backward(torch.ones_like(output))
    return time.perf_counter() - begun


def measure_here(name: str, length: int, document: int) -> None:
    """Measure one way in this process, and print it."""
    attention, given = way_of(name, length, document)
    seconds_of(*way_of(name, 1024, 256))  # what torch prepares once
    before = peak_bytes()
    taken = seconds_of(attention, given)
    write(json.dumps({"seconds": taken, "bytes": peak_bytes() - before}))


def measured(name: str, length: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure one way in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention", "--one", name, "--length", str(length)]
    command += ["--document", str(options.document), "--threads", str(options.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def table(options: argparse.Namespace) -> None:
    """Print time and memory of each way at each length."""
    names = ("mask", "documents", "rank of 2, documents", "sample", "rank of 2, sample")
    write(f"{'tokens':>8}" + "".join(f"{name:>26}" for name in names))
    length = SHORTEST
    while length <= options.longest:
        cells = []
        for name in names:
            if name == "mask" and length > LONGEST_MASK:
                cells.append("-")
                continue
            found = measured(name, length, options)
            cells.append(f"{found['seconds']:.2f} s {found['bytes'] / 2**20:7.0f} MiB")
        write(f"{length:>8}" + "".join(f"{cell:>26}" for cell in cells))
        length *= 2


def packing() -> None:
    """Print what packing costs beside the same documents one after the other."""
    write(f"\n{PACKED_LENGTH:,} tokens in documents:   packed, s   one by one, s   ratio")
    for count in ROUNDS:
        starts = [PACKED_LENGTH * number // count for number in range(count + 1)]
        documents = documents_at(torch.tensor(starts, dtype=torch.int32))
        given = inputs(PACKED_LENGTH)
        alone = [[x[start:end].clone() for x in given] for start, end in pairwise(starts)]
        rounds = []
        for _ in range(ROUNDS[count]):
            packed = seconds_of(lambda *x, documents=documents: attend_documents(*x, documents), given)
            rounds.append((packed, sum(seconds_of(attend, document) for document in alone)))
        together, apart = (min(times) for times in zip(*rounds, strict=True))
        write(f"{count:>10,}{together:>30.3f}{apart:>16.3f}{together / apart:>8.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Attention in long samples on a CPU.")
    parser.add_argument("--longest", type=int, default=131072, help="longest sample, in tokens")
    parser.add_argument("--document", type=int, default=2048, help="tokens of each document")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        measure_here(options.one, options.length, options.document)
        return
    write(
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{options.threads} thread(s), fp32, {HEADS} heads of {HEAD_SIZE}, {GROUPS} of keys and values, documents of "
        f"{options.document:,} tokens; forward and backward"
    )
    table(options)
    packing()


if __name__ == "__main__":
    main()
