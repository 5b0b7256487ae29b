"""The files under one argument: those that are read, and those that are left out, by the reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from data_prep.text.file_kinds import Endings
from data_prep.text.input_file import InputFile
from harness.text import listed, printable

EXAMPLES = 3
"""Names shown of the files that are left out for one reason."""

HIDDEN = "hidden"
DEAD_LINK = "no file: a link that leads nowhere, or a device"
SEEN = "read already under another name"
WHOLE_JSON = "one JSON object over several lines, not lines of JSON"


def other_ending(endings: Endings) -> str:
    """Return the reason for a file whose name ends otherwise."""
    return f"the name ends in none of {endings.shown}"


@dataclass
class FoundFiles:
    """The files of one argument."""

    files: list[InputFile] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Paths below the argument that are not read, by the reason."""

    def leave_out(self, reason: str, path: str) -> None:
        """Note a path that is not read."""
        self.left_out.setdefault(reason, []).append(printable(path))

    def told(self) -> Iterator[str]:
        """Yield a line for each reason: how many, the first names, and why."""
        for reason, paths in self.left_out.items():
            count = "1 is" if len(paths) == 1 else f"{len(paths):,} are"
            yield f"{count} left out, {reason}: {listed(sorted(paths), EXAMPLES)}"
