"""Compiles every Triton kernel for Hopper (sm_90), as for a model of 8B parameters, and says what it needs.

    python -m benchmarks.kernel_registers

Needs no GPU: Triton brings the compiler, and nothing is run. A kernel that spills keeps in memory what does not fit
into registers, and reads it back: more bytes than `benchmarks.kernel_traffic` counts. A narrow access takes one number
where a thread could take eight. Batches of three lengths must need one variant, or a run would compile at every phase.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.pop("TRITON_INTERPRET", None)  # it is asked for when Triton is imported

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from benchmarks.kernel_cases import Sizes, cases
from harness.model.kernels import launch

HOPPER = GPUTarget("cuda", 90, 32)
_PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
LENGTHS = (64, 100, 127)
SIZES = Sizes(rows=LENGTHS[0], hidden=4096, ffn=14336, vocabulary=128256, heads=32, groups=8, head=128)


@dataclass(frozen=True)
class Compiled:
    """Needs of a kernel on the GPU."""

    name: str
    warps: int
    registers: int
    """Of a thread; the processor has 65,536."""
    spilled_bytes: int
    narrow: int
    """Loads and stores of single bf16 numbers, where 16 bytes at once would do."""
    variants: int
    """Times that it is compiled for batches of three lengths."""


class _Driver:
    """In place of a GPU's driver: names what to compile for. Nothing is launched."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


def compiled() -> Iterator[Compiled]:
    """Yield what each kernel needs, forward and backward."""
    found: list[Any] = []

    def compile_only(self: Any, grid: Any) -> Any:  # noqa: ANN401 (Triton's)
        return lambda *arguments, **keywords: found.append(self.run(*arguments, grid=grid, warmup=True, **keywords))

    triton.runtime.driver.set_active(_Driver())
    # One processor: its programs have as many rows as on a GPU, and another number of them for each length.
    one = mock.patch.object(launch, "processors", lambda _device: 1)
    with one, mock.patch.object(JITFunction, "__getitem__", compile_only):
        for of_all_lengths in zip(*(cases(replace(SIZES, rows=rows)) for rows in LENGTHS), strict=True):
            found.clear()
            for case in of_all_lengths:
                counted = len(found)
                run = case.prepare()
                del found[counted:]  # the forward pass that a backward pass needs first
                run()
            kernels = {kernel.hash: kernel for kernel in found}
            yield _needs(case.name, found[0], len(kernels))


def _needs(name: str, kernel: Any, variants: int) -> Compiled:  # noqa: ANN401 (Triton's)
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(kernel.asm["ptx"])
        file.flush()
        command = [str(_PTXAS), "-v", "--gpu-name=sm_90a", file.name, "-o", os.devnull]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spilled = re.findall(r"(\d+) bytes spill", said)
    assert registers and spilled, f"ptxas said nothing of registers: {said}"
    narrow = len(re.findall(r"(?:ld|st)\.global[\w.:]*\.b16", kernel.asm["ptx"]))
    return Compiled(name, kernel.metadata.num_warps, int(registers[1]), sum(map(int, spilled)), narrow, variants)


def main() -> int:
    """Print the table."""
    heads = ("kernel", "warps", "registers of a thread", "bytes spilled", "narrow accesses", "variants")
    sys.stdout.write(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n")
    for each in compiled():
        sys.stdout.write(f"| {' | '.join(map(str, astuple(each)))} |\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
