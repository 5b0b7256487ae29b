"""Problems of a configuration, each with its place: `tiny.yaml:41:5: model.hidden_size: …`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.errors import ConfigError
from harness.text import one_line

Location = tuple[str | int, ...]
"""Keys and list indices from the top of the configuration down to a value."""

MAX_SHOWN = 50
"""Problems that are shown at once; of the others only the number is."""

_LONGEST_SHOWN_VALUE = 60


@dataclass(frozen=True)
class Origin:
    """Origin of a value: a place in a file, or (with line 0) an override on the command line."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


Origins = dict[Location, Origin]


@dataclass(frozen=True)
class Problem:
    """Something wrong with the value at a location; `origin` only where the value's own is not the right one."""

    location: Location
    text: str
    origin: Origin | None = None


def origin_of(origins: Mapping[Location, Origin], location: Location) -> Origin:
    """Return the origin of a value or, if it was not given, of the nearest section around it."""
    while location not in origins:
        location = location[:-1]
    return origins[location]


def raise_problems(problems: Iterable[Problem], origins: Mapping[Location, Origin]) -> None:
    """Raise all problems as one `ConfigError`, in the order of the file, overrides last; no problem, no error."""
    located = [(problem.origin or origin_of(origins, problem.location), problem) for problem in problems]
    if not located:
        return
    located.sort(key=lambda pair: (pair[0].line == 0, pair[0].line, pair[0].column))
    lines = [": ".join(filter(None, (str(origin), dotted(p.location), p.text))) for origin, p in located]
    hidden = len(lines) - MAX_SHOWN
    raise ConfigError(lines[:MAX_SHOWN] + ([f"… and {hidden} more"] if hidden > 0 else []))


def dotted(location: Location) -> str:
    """Return a location as users write it after `--set`: `phases.0.seq_length`."""
    return shortened(".".join(str(part) for part in location))


def shortened(text: str) -> str:
    """Return the text with unprintable characters escaped, shortened to fit a message."""
    shown = one_line(text[:200])
    return shown if len(shown) <= _LONGEST_SHOWN_VALUE else shown[: _LONGEST_SHOWN_VALUE - 1] + "…"


def closest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed word that is closest to the given one, or None."""
    matches = difflib.get_close_matches(given, list(allowed), n=1, cutoff=0.7)
    return matches[0] if matches else None


def did_you_mean(given: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest allowed word, or nothing if none is close."""
    match = closest(given, allowed)
    return f"; did you mean '{match}'?" if match else ""
