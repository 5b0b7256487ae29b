"""The system calls by which a run becomes durable: taken from a recording, and disturbed one at a time by `strace`.

A call is known by its file, its name and its number among the calls of that name on that file; so it is the same call
in the next run, whichever process or thread makes it.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,"
    "link,linkat,symlink,ftruncate,truncate,close"
)
_LINE = re.compile(r"(?P<pid>\d+) +(?P<name>\w+)\((?P<arguments>.*)")
_RESULT = re.compile(r"= (-?\d+)[^=]*$")
_PATH = re.compile(r'[<"](/[^">]*)[>"]')
_MAKES = ("O_CREAT", "O_WRONLY", "O_RDWR")
MAX_SAME_CALLS = 40
"""Of so many calls of one name on one file all are disturbed; of more only these."""


@dataclass(frozen=True, order=True)
class SystemCall:
    """One call of a recording."""

    path: str
    """Of its file or folder, below the run directory."""
    name: str
    number: int
    """From 1, among the calls of this name on this path by one thread."""
    result: int = 0
    """What it returned."""
    reads: bool = False
    """Opens a file for reading only."""

    def __str__(self) -> str:
        return f"{self.name} {self.number} of {self.path}"


def is_available() -> bool:
    return shutil.which("strace") is not None


def recording(log: Path) -> Sequence[str]:
    """Arguments that make `strace` record the calls."""
    return ["-y", "-s", "1", "-e", f"trace={CALLS}", "-o", str(log)]


def injection(call: SystemCall, run_dir: Path, fault: str, *, sticky: bool = False) -> Sequence[str]:
    """Arguments that make `strace` disturb a call, with `sticky` also all later ones of its name on its path."""
    when = f"{call.number}+" if sticky else str(call.number)
    log = run_dir.with_name("injected.txt")
    path = str(run_dir / call.path)
    return ["-P", path, "-o", str(log), "-e", f"trace={call.name}", "-e", f"inject={call.name}:{fault}:when={when}"]


def struck(run_dir: Path) -> bool:
    """Whether the last injection found its call."""
    text = run_dir.with_name("injected.txt").read_text(errors="replace")
    return "(INJECTED)" in text or "killed by SIGKILL" in text


def recorded_calls(log: Path, run_dir: Path) -> list[SystemCall]:
    """The calls of a recording that are on files of the run directory."""
    counts: Counter[tuple[str, str, str]] = Counter()
    found: dict[SystemCall, None] = {}
    for pid, name, arguments in _calls(log):
        path = _path_below(arguments, run_dir)
        if path is None:
            continue
        counts[pid, name, path] += 1
        number = counts[pid, name, path]
        result = int(match[1]) if (match := _RESULT.search(arguments)) else 0
        reads = name == "openat" and not any(flag in arguments for flag in _MAKES)
        if number <= MAX_SAME_CALLS:
            found.setdefault(SystemCall(path, name, number, result, reads))
    return sorted({(call.path, call.name, call.number): call for call in reversed(found)}.values())


def _calls(log: Path) -> Iterator[tuple[str, str, str]]:
    for line in log.read_text(errors="replace").splitlines():
        if match := _LINE.match(line):
            yield match["pid"], match["name"], match["arguments"]


def _path_below(arguments: str, run_dir: Path) -> str | None:
    for path in _PATH.findall(arguments):
        if path.startswith(f"{run_dir}/") or path == str(run_dir):
            return str(Path(path).relative_to(run_dir))
    return None
