"""Runs a command on a machine that looks as if it had one H100, which computes nothing.

    PYTHON tests/fakegpu/fakegpu.py COMMAND…

The Python that runs this must be the one whose torch the command uses. See README.md beside this file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fakegpu_build import DRIVER, HERE, RUNTIME, FakeGpuError, build  # noqa: E402 (this folder is no package)


def environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with which every Python below sees the device."""
    return dict(given) | {
        "LD_PRELOAD": str(folder / RUNTIME),
        "LD_LIBRARY_PATH": _before(str(folder), given.get("LD_LIBRARY_PATH")),
        "TRITON_LIBCUDA_PATH": str(folder),
        "PATH": _before(str(folder), given.get("PATH")),
        "PYTHONPATH": _before(str(HERE / "site"), given.get("PYTHONPATH")),
        "PRETENDED_GPU": "1",
        # Kernels that were never run stay away from the caches of a real GPU.
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        # Its pool of compiling processes does not end well here.
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
    }


def _before(first: str, rest: str | None) -> str:
    return f"{first}:{rest}" if rest else first


def main(command: list[str]) -> int:
    """Replace this process by the command."""
    if not command:
        sys.stderr.write("usage: python tests/fakegpu/fakegpu.py COMMAND...\n")
        return 64
    try:
        folder = build()
    except FakeGpuError as error:
        sys.stderr.write(f"{error}\n")
        return 64
    assert (folder / DRIVER).is_file(), f"{folder} has no {DRIVER}; remove it"
    os.execvpe(command[0], command, environment(folder, os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
