"""Bytes that every Triton kernel reads and writes, beside the least that its task needs.

    python -m benchmarks.kernel_traffic

Needs no GPU: Triton's interpreter runs the kernels, and every load and store is counted by its mask. These kernels do
little arithmetic, so on a GPU their time should be that of their bytes; no speed is measured here.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

os.environ.setdefault("TRITON_INTERPRET", "1")  # it is asked for when Triton is imported

from benchmarks.kernel_cases import Case, Sizes, cases
from harness.model.kernels import launch

# The interpreter is slow. With one processor the programs have as many rows as with 16,384 rows and 132 processors.
PROCESSORS = 1
SIZES = Sizes(rows=124, hidden=2048, ffn=2048, vocabulary=8192, heads=32, groups=8, head=64)
FEW = replace(SIZES, rows=12)
"""For kernels whose programs read nothing that rows share: the bytes of every row are the same."""


@dataclass
class Traffic:
    """Bytes that kernels read and wrote."""

    read: int = 0
    written: int = 0


@contextlib.contextmanager
def counted() -> Iterator[Traffic]:
    """Count what interpreted kernels read and write."""
    from triton.runtime import interpreter

    builder = interpreter.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store
    traffic = Traffic()

    def counted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:  # noqa: ANN401 (Triton's)
        found = load(self, pointers, mask, *rest)
        traffic.read += int(mask.data.sum()) * found.data.itemsize
        return found

    def counted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:  # noqa: ANN401
        traffic.written += int(mask.data.sum()) * value.data.itemsize
        return store(self, pointers, value, mask, *rest)

    builder.create_masked_load, builder.create_masked_store = counted_load, counted_store
    try:
        yield traffic
    finally:
        builder.create_masked_load, builder.create_masked_store = load, store


def counted_cases() -> list[Case]:
    """Return every kernel at the size that is counted: the norms at many rows, which share the norm's weight."""
    both = zip(cases(SIZES), cases(FEW), strict=True)
    return [many if "RMSNorm" in many.name else few for many, few in both]


def ratio(case: Case) -> float:
    """Return the bytes that the kernel moved over the least possible."""
    with mock.patch.object(launch, "processors", lambda _device: PROCESSORS):
        run = case.prepare()
        with counted() as traffic:
            run()
    return (traffic.read + traffic.written) / case.least


def main() -> int:
    """Print the table."""
    sys.stdout.write("| kernel | bytes moved, of the least possible |\n|---|---|\n")
    for case in counted_cases():
        sys.stdout.write(f"| {case.name} | {ratio(case):.3f} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
