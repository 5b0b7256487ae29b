"""The system calls by which a run becomes durable: taken from a recording, and disturbed one at a time by `strace`.

A call is known by its file, its name and its number among the calls of that name on that file; so it is the same call
in the next run, whichever process or thread makes it. In the names of files `TOKEN` stands for the fencing token of the
start, which is one more each time.
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
_RESUMED = re.compile(r"(?P<pid>\d+) +<\.\.\. \w+ resumed>(?P<rest>.*)")
_RESULT = re.compile(r"= (-?\d+)[^=]*$")
_PATH = re.compile(r'[<"](/[^">]*)[>"]')
_WITH_TOKEN = re.compile(r"(?<=step_[0-9]{7}\.)[0-9]+(?=\.partial)|(?<=^fence/)[0-9]{7}")
TOKEN = "TOKEN"
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
    path = str(run_dir / _named(call.path, run_dir))
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


def _named(path: str, run_dir: Path) -> str:
    """The path as the next start will call it."""
    taken = [int(file.name) for file in (run_dir / "fence").glob("[0-9]*") if file.name.isdecimal()]
    token = max(taken, default=0) + 1
    return path.replace(f"fence/{TOKEN}", f"fence/{token:07d}").replace(TOKEN, str(token))


def _calls(log: Path) -> Iterator[tuple[str, str, str]]:
    """Thread, name, and arguments with the result, of every call that returned or was meant to."""
    begun: dict[str, tuple[str, str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        if resumed := _RESUMED.match(line):
            name, arguments = begun.pop(resumed["pid"], ("", ""))
            if name:
                yield resumed["pid"], name, arguments + resumed["rest"]
        elif match := _LINE.match(line):
            if "<unfinished ...>" in line:
                begun[match["pid"]] = match["name"], match["arguments"]
            else:
                yield match["pid"], match["name"], match["arguments"]


def _path_below(arguments: str, run_dir: Path) -> str | None:
    for path in _PATH.findall(arguments):
        if path.startswith(f"{run_dir}/") or path == str(run_dir):
            return _WITH_TOKEN.sub(TOKEN, str(Path(path).relative_to(run_dir)))
    return None
