"""Builds the three libraries of the pretended GPU from the C files beside this one, if they are not there yet.

The CUDA headers come from torch's own wheels, so torch must be a build with CUDA. A build is kept by the hash of its
sources and of torch's version: a change of either makes another one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import runpy
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUNTIME = "libpretended.so"
DRIVER = "libcuda.so.1"
_PARTS = {
    RUNTIME: ("memory.c", "runtime.c", "cublas.c", "nccl.c"),
    DRIVER: ("driver.c",),
    "libnvidia-ml.so.1": ("nvml.c",),
}


class FakeGpuError(Exception):
    """The pretended GPU cannot be built here; the message is one line for the user."""


def build(cache: Path | None = None) -> Path:
    """Return the folder with the libraries and an `nvidia-smi`.

    Raises:
        FakeGpuError: torch is missing or has no CUDA, or there is no C compiler, or it fails.
    """
    headers = cuda_headers()
    folder = (cache or _cache()) / _fingerprint()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as name:
            _compile(Path(name) / "new", headers)
            try:
                (Path(name) / "new").rename(folder)
            except OSError:  # another process was faster
                assert folder.is_dir(), f"{folder} cannot be made"
    return folder


def cuda_headers() -> list[Path]:
    """Return the folders of CUDA's headers in the wheels of the torch of this interpreter: the runtime's and Triton's.

    The wheel of the runtime lacks `crt/host_defines.h`, which Triton brings.
    """
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        raise FakeGpuError("the pretended GPU needs torch, and this Python has none")
    version = runpy.run_path(str(Path(torch.origin).with_name("version.py")))
    if not version["cuda"]:
        raise FakeGpuError(
            f"the pretended GPU needs a build of torch with CUDA, and torch {version['__version__']} is not"
        )
    found = [_header("nvidia", "*/include/cuda_runtime_api.h"), _header("triton", "backends/nvidia/include/cuda.h")]
    return [header.parent for header in found]


def _header(package: str, header: str) -> Path:
    spec = importlib.util.find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        for path in sorted(Path(root).glob(header)):
            return path
    raise FakeGpuError(f"the pretended GPU needs {Path(header).name}, and the package {package} here has none")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "harness" / "fakegpu"


def _fingerprint() -> str:
    digest = hashlib.sha256(importlib.metadata.version("torch").encode())
    for source in sorted([*HERE.glob("*.[ch]"), HERE / "nvidia-smi"]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _compile(folder: Path, headers: list[Path]) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FakeGpuError("the pretended GPU needs a C compiler, and there is no gcc on the PATH")
    folder.mkdir()
    for library, sources in _PARTS.items():
        command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", *(f"-I{each}" for each in headers)]
        command += ["-o", str(folder / library), *(str(HERE / source) for source in sources), "-ldl", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
            raise FakeGpuError(f"{compiler} cannot build the pretended GPU: {(errors or ['no message'])[0]}")
    (folder / "libcuda.so").symlink_to(DRIVER)
    shutil.copy(HERE / "nvidia-smi", folder / "nvidia-smi")
