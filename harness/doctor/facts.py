"""Gathers facts about this machine, without judging them and without importing anything heavy."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.json_text import parse_json

SHARED_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "afs", "panfs", "pvfs2", "orangefs", "wekafs")
    + ("glusterfs", "fuse.glusterfs", "fuse.sshfs", "fuse.juicefs", "fuse.s3fs", "fuse.gcsfuse", "virtiofs", "9p")
)
"""Kinds of file systems that many machines share, as the kernel calls them."""
DISTRIBUTIONS = ("torch", "megatron-core", "transformer-engine", "apex")
_PROBE_TIMEOUT_S = 180


@dataclass(frozen=True, kw_only=True)
class GpuFact:
    """One GPU that torch can use."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A machine as training would find it. None: not there, or not known."""

    python: tuple[int, int, int]
    executable: str
    versions: dict[str, str]
    """Versions of those `DISTRIBUTIONS` that are installed."""
    apex_is_nvidias: bool
    """An installed `apex` has NVIDIA's compiled kernels."""
    errors: dict[str, str] = field(default_factory=dict)
    """Modules that are installed but cannot be imported, and why; `probe` where looking itself failed."""
    cuda: str | None = None
    cudnn: int | None = None
    nccl: str | None = None
    gpus: tuple[GpuFact, ...] = ()
    num_cpu_cores: int
    memory_bytes: int
    folder: Path
    """The folder whose disk was measured."""
    file_system: str | None
    environment: Path
    """The folder with the Python packages."""
    environment_file_system: str | None
    disk_free_bytes: int
    name_lookup_s: float = 0.0
    """Time to find the name that belongs to this machine's address."""


def gather(folder: Path) -> Facts:
    """Look at this machine; takes seconds where torch is installed, because a process is started to import it."""
    versions = installed_versions(DISTRIBUTIONS)
    seen = run_probe() if "torch" in versions else {}
    return Facts(
        python=sys.version_info[:3],
        executable=sys.executable,
        versions=versions,
        apex_is_nvidias=_has_nvidia_apex(),
        errors=seen.get("errors", {}),
        cuda=seen.get("cuda"),
        cudnn=seen.get("cudnn"),
        nccl=seen.get("nccl"),
        gpus=tuple(GpuFact(**gpu) for gpu in seen.get("gpus", ())),
        num_cpu_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_bytes=_memory_bytes(),
        folder=folder.resolve(),
        file_system=file_system_of(folder.resolve()),
        environment=_environment(),
        environment_file_system=file_system_of(_environment()),
        disk_free_bytes=shutil.disk_usage(folder).free,
        name_lookup_s=_name_lookup_s(),
    )


def installed_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of the packages that are installed, from their metadata; imports none of them."""
    versions = {}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def run_probe(command: tuple[str, ...] = (sys.executable, "-m", "harness.doctor.probe")) -> dict[str, Any]:
    """Return the output of `harness.doctor.probe`, run as a process; `errors` has an entry if it dies or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return {"errors": {"probe": f"importing torch took longer than {_PROBE_TIMEOUT_S} s"}}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"errors": {"probe": f"importing torch ended the process with {done.returncode}: {last}"}}
    seen: dict[str, Any] = parse_json(done.stdout.strip().splitlines()[-1])
    return seen


def _has_nvidia_apex() -> bool:
    """Return whether `apex` is NVIDIA's, by its files: importing the unrelated `apex` would run foreign code."""
    spec = importlib.util.find_spec("apex")
    folders = spec.submodule_search_locations if spec else None
    has_optimizers = any((Path(folder) / "optimizers").is_dir() for folder in folders or ())
    return has_optimizers and importlib.util.find_spec("amp_C") is not None


def _memory_bytes() -> int:
    """Return the memory of the machine, or the limit of the process if that is lower (containers)."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _name_lookup_s() -> float:
    began = time.monotonic()
    with suppress(OSError):
        socket.getnameinfo((socket.gethostbyname(socket.gethostname()), 0), 0)
    return time.monotonic() - began


def _environment() -> Path:
    return Path(sysconfig.get_path("purelib")).resolve()


def file_system_of(folder: Path) -> str | None:
    """Return the kind of file system (ext4, nfs4 …) of the longest mount point above the folder; None off Linux."""
    if platform.system() != "Linux":
        return None
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    above = [(mount, kind) for mount, kind in mounts if folder.is_relative_to(mount.replace("\\040", " "))]
    return max(above, key=lambda pair: len(pair[0]))[1] if above else None
