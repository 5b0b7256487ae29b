"""Parts of channels that a run has read whole and found sound: `checked_parts.jsonl`, one JSON object a line.

    {"channel": "zh", "part": "part-00007", "bin": [[163840, 1764…, 1764…, 7012], "0f3a…"], "idx": [[…], "77b1…"]}

Of each file its size in bytes, the times of its last change of content and of any change (ns since 1970), its inode,
and its XXH3. A later launch does not read a file again that looks the same. The last line of a part counts. The file
only saves time, except for pairs without a list of parts: of these nothing but it says what their files were.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from harness.run.files import append_lines, read_regular

_MOST_BYTES = 256 << 20
"""A million checks. The rest of a longer file is not used, so its parts are read again."""
_FRESH_NS = 2_000_000_000
"""A file that changed so shortly before may change again without another time: clocks of file systems are coarse."""

Number = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class FileState(NamedTuple):
    """Numbers that tell without reading a file whether it has changed."""

    num_bytes: Number
    modified_ns: Number
    changed_ns: Number
    inode: Number


class CheckedFile(NamedTuple):
    """A file that was read whole."""

    state: FileState
    xxh3: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class CheckedPart(NamedTuple):
    """A part whose files were read whole, and that was sound."""

    channel: str
    """Name of the channel; with ` (validation)` behind it for held-out documents of its own."""
    part: str
    bin: CheckedFile
    idx: CheckedFile

    @property
    def key(self) -> tuple[str, str]:
        """Return what names the part in a run."""
        return self.channel, self.part

    @property
    def states(self) -> tuple[FileState, FileState]:
        """Return the states of `.bin` and `.idx`."""
        return self.bin.state, self.idx.state

    def as_remembered(self, now_ns: int) -> CheckedPart:
        """Return the part without times if a file had changed a moment before: its state would not tell a change."""
        if now_ns - max(*self.bin.state[1:3], *self.idx.state[1:3]) >= _FRESH_NS:
            return self
        return self._replace(bin=_without_times(self.bin), idx=_without_times(self.idx))


def _without_times(file: CheckedFile) -> CheckedFile:
    return file._replace(state=FileState(file.state.num_bytes, 0, 0, 0))


CheckedParts = Mapping[tuple[str, str], CheckedPart]
_LINE = TypeAdapter(CheckedPart)


def read_checked(path: Path) -> dict[tuple[str, str], CheckedPart]:
    """Return the last check of every part by channel and name. Lines that are no such record are passed over."""
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError:
        return {}
    found = {}
    for line in content[:_MOST_BYTES].split(b"\n")[:-1]:
        try:
            fields = _LINE.validate_json(line, strict=True)
        except ValidationError:
            continue
        found[fields.key] = fields
    return found


def append_checked(path: Path, checked: Iterable[CheckedPart]) -> None:
    """Append checks of parts. Of files that had changed a moment before, the next launch looks at the content again.

    Raises:
        OSError: From the disk.
    """
    now_ns = time.time_ns()
    append_lines(path, [json.dumps(part.as_remembered(now_ns)._asdict()) for part in checked])
