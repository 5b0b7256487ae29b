"""Finds the memory that this process may still take: that of the machine, or of its job, if that is less.

A login node or a Slurm job has its own limit, in a control group. `/proc/meminfo` does not show it.

```
/proc/self/cgroup   0::/user.slice/…            version 2: files memory.max, memory.current
                    9:memory:/slurm/job_7/…     version 1: memory.limit_in_bytes, memory.usage_in_bytes
```
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_V1, _V2 = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")


def available_bytes(
    meminfo: Path = Path("/proc/meminfo"), own: Path = Path("/proc/self/cgroup"), groups: Path = Path("/sys/fs/cgroup")
) -> int:
    """Return the memory that can be taken without swapping or being killed, as far as Linux reports it."""
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    return min([int(line.split()[1]) * 1024, *_rooms(own, groups)])


def _rooms(own: Path, groups: Path) -> Iterator[int]:
    """Yield the free memory of each control group that this process is in."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", _V1) if controllers else (groups, _V2)
        place = root / path.lstrip("/")
        # In a container the path may be that of the host: then only the root is there.
        for folder in {root, *(parent for parent in (place, *place.parents) if parent.is_relative_to(root))}:
            room = _room(folder, *names)
            if room is not None:
                yield room


def _room(folder: Path, limit: str, used: str) -> int | None:
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
        stat = (folder / "memory.stat").read_text().split()
    except (OSError, ValueError):
        return None
    if not most.isdecimal():  # "max"
        return None
    cached = dict(zip(stat[::2], stat[1::2], strict=False)).get("inactive_file", "0")
    return max(0, int(most) - now + int(cached))
