"""Watches for new parts of channels while a run trains: new lines in `parts.jsonl` whose files are complete.

A look costs one stat call for each channel, every few seconds. A list is read only if it has changed; then the lines
that were appended are parsed. A new part is read whole. All of this is done by a thread beside training.

Each adoption stays in the history of the run's order for good, so parts that come one by one are gathered: until they
are a thousandth of those in use, or have waited for ten minutes. A channel of up to a thousand parts gets each at once;
a run of three months adopts at most 13,000 times for each, however many parts come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.channels.channels import PARTS_FILE, Channel, SeenLines, further_parts
from harness.channels.parts import Part, check_width
from harness.data.files.checked import UsedPart, check_part
from harness.errors import DataError
from harness.run.checked_parts import CheckedPart, CheckedParts

_ADOPTED_PER_NEW = 1000
_GATHERED_FOR_S = 600.0


@dataclass(frozen=True, kw_only=True)
class NewParts:
    """New parts that can be used, and problems with others."""

    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    """New parts of each channel, in the order of its list."""
    problems: tuple[str, ...] = ()
    checked: CheckedParts = field(default_factory=dict)
    """The checks of the new parts: they are not read again when their turn comes."""


class Arrivals:
    """Watches the lists of parts of some channels. Not safe to use from several threads."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        paths: Mapping[str, Path],
        *,
        vocab_size: int,
        every_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Watch those of the channels that have a list of parts, given with the parts that are known.

        The tokens of new parts must be wide enough for `vocab_size`.
        """
        self._known = {name: channel for name, channel in channels.items() if (paths[name] / PARTS_FILE).is_file()}
        self._lines = {name: SeenLines() for name in self._known}
        """Only the thread looks at them."""
        self._paths = paths
        self._vocab_size = vocab_size
        self._every_s = every_s
        self._clock = clock
        self._next_look = clock()
        self._seen: dict[str, tuple[int, int, int] | None] = {}
        self._looking: Future[NewParts] | None = None
        self._found = NewParts()
        self._found_at = 0.0
        """Time at which the first part was found that nobody has taken yet."""
        self._postponed: set[str] = set()
        """Channels whose lists the next look reads anyway."""
        self._reported: set[str] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="arrivals")

    def has_found(self, *, is_wanted: bool = False) -> bool:
        """Return whether enough was found since the last `take`, or anything if it `is_wanted` now.

        Begins the next look when it is due.
        """
        if self._looking is not None and self._looking.done():
            self._keep(self._looking.result())
            self._looking = None
        if self._looking is None and self._clock() >= self._next_look:
            self._next_look = self._clock() + self._every_s
            for name in self._postponed:
                self._seen.pop(name, None)
            self._postponed.clear()
            self._looking = self._pool.submit(self._look)
        if self._found.problems or not self._found.parts:
            return bool(self._found.problems)
        return is_wanted or self._is_enough()

    def take(self) -> NewParts:
        """Return what was found and forget it. Its parts count as known, and its problems are not reported again."""
        found, self._found = self._found, NewParts()
        return found

    def put_back(self, parts: Mapping[str, tuple[Part, ...]]) -> None:
        """Forget parts that cannot be used yet, so that a later look finds them again."""
        for name, postponed in parts.items():
            channel = self._known[name]
            self._known[name] = replace(channel, parts=channel.parts[: -len(postponed)])
            self._postponed.add(name)

    def close(self) -> None:
        """Stop looking."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _is_enough(self) -> bool:
        """Return whether the parts that were found are worth an entry in the history of the order."""
        if self._clock() - self._found_at >= _GATHERED_FOR_S:
            return True
        return any(
            _ADOPTED_PER_NEW * len(parts) >= len(self._known[name].parts) - len(parts)
            for name, parts in self._found.parts.items()
        )

    def _has_changed(self, name: str) -> bool:
        try:
            found = (self._paths[name] / PARTS_FILE).stat()
            state = (found.st_size, found.st_mtime_ns, found.st_ino)
        except OSError:
            state = None
        if self._seen.get(name, ()) == state:
            return False
        self._seen[name] = state
        return True

    def _look(self) -> NewParts:
        parts: dict[str, tuple[Part, ...]] = {}
        checked: dict[tuple[str, str], CheckedPart] = {}
        problems = []
        for name in filter(self._has_changed, self._known):
            sound: list[Part] = []
            try:
                for part in further_parts(self._known[name], self._paths[name], self._lines[name]):
                    check_width(name, [part], self._vocab_size)
                    checked[name, part.name] = check_part(UsedPart(name, part), self._vocab_size)
                    sound.append(part)
            except DataError as error:
                problems.append(str(error))
                self._seen.pop(name)  # a file that is still being copied may be whole at the next look
            if sound:
                parts[name] = tuple(sound)
        return NewParts(parts=parts, problems=tuple(problems), checked=checked)

    def _keep(self, found: NewParts) -> None:
        """Add what a look found to what `take` has not returned yet, without the problems that were reported before."""
        if not self._found.parts:
            self._found_at = self._clock()
        for name, parts in found.parts.items():
            channel = self._known[name]
            self._known[name] = replace(channel, parts=(*channel.parts, *parts))
        unreported = tuple(problem for problem in found.problems if problem not in self._reported)
        self._reported.update(unreported)
        both = {name: self._found.parts.get(name, ()) + found.parts.get(name, ()) for name in self._known}
        self._found = NewParts(
            parts={name: parts for name, parts in both.items() if parts},
            problems=(*self._found.problems, *unreported),
            checked={**self._found.checked, **found.checked},
        )
