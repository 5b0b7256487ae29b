"""The visit of `gpu_visit.py` on a pretended GPU, in an environment as bare as that of the real machine.

    PYTHON tests/visit/gpu_dry.py [bench|tests|long|saves|all]         (`make gpu-dry`)

It needs a Python whose torch is a build with CUDA: the one that runs this, or the one that `GPU_PYTHON` names, or
`.venv-gpu`, which is made if need be.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_packages import CARRIED, GROUPS, ROOT, pins

LIMITS_TIMES = "6"
"""Two busy cores take so much longer than a machine with a GPU."""


def has_cuda_build() -> bool:
    """Return whether the torch of this Python is a build with CUDA."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    return bool(runpy.run_path(str(Path(torch.origin).with_name("version.py")))["cuda"])


def python_with_cuda() -> str:
    """Return the interpreter of the rehearsal; `.venv-gpu` is made if there is no other."""
    if given := os.environ.get("GPU_PYTHON"):
        return given
    if has_cuda_build():
        return sys.executable
    environment = ROOT / ".venv-gpu"
    python = environment / "bin" / "python"
    if not (environment / ".ready").exists():
        pinned = pins((ROOT / "constraints.txt").read_text(), sys.version_info[:2])
        there = [name for group in GROUPS for name in group if name not in CARRIED]
        sys.stdout.write(
            f"{sys.executable} has no torch with CUDA: .venv-gpu is made, and gigabytes are fetched for it\n"
        )
        sys.stdout.flush()
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        wanted = [f"{name}=={pinned[name]}" for name in ("torch", *there)]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        (environment / ".ready").touch()
    return str(python)


def main(arguments: Sequence[str]) -> int:
    """Replace this process by the visit."""
    try:
        python = python_with_cuda()
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f".venv-gpu cannot be made: `{' '.join(error.cmd[:4])} ...` ended with {error.returncode}\n")
        return 64
    visit = [python, str(ROOT / "tests/visit/gpu_visit.py"), *arguments, "--limits-times", LIMITS_TIMES]
    visit += ["--out", str(ROOT / ".gpu" / "dry")]
    bare = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(Path.home())}
    sys.stdout.flush()
    os.execve(python, [python, str(ROOT / "tests/fakegpu/fakegpu.py"), *visit], bare)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
