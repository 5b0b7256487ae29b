"""Scores verdicts against labelled events.

An event is found if an alarm (suspect or stronger) overlaps it, with one logged step of slack on either side. Its
delay runs from its labelled start to the first such alarm. Alarms within 50 steps of each other are one episode; an
episode outside every event is a false alarm, and a false confirmed if it was confirmed. The first 1,000 steps are not
scored. Rates are per 100,000 logged steps outside events.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median_high

from harness.errors import DataError
from harness.run.field_types import is_count, reason_in_words
from harness.watch.recordings import UNREADABLE, text_lines
from harness.watch.verdict import ALARMS, Direction, Verdict

UNSCORED_STEPS = 1000
MERGE_STEPS = 50
_MOST_LABELS = 10_000
_MOST_SHOWN = 200


@dataclass(frozen=True)
class Label:
    """An event that a person, or an offline rule, saw in a curve."""

    direction: Direction
    start: int
    end: int


@dataclass
class Alarm:
    """An episode of alarms."""

    start: int
    end: int
    confirmed: bool


@dataclass
class Score:
    """Counts of one curve, or of several pooled."""

    found: list[tuple[Label, int | None]] = field(default_factory=list)
    """Every event with its delay in steps; None where it was not found."""
    num_episodes: int = 0
    num_false: int = 0
    num_false_confirmed: int = 0
    num_quiet: int = 0
    """Logged steps outside events."""
    wasted_steps: int = 0

    def add(self, other: Score) -> None:
        """Add the counts of another curve."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def summary(self) -> dict[str, float | int | None]:
        """Return the pooled numbers of `harness replay --json`. A number without a denominator is None."""
        delays = sorted(delay for _, delay in self.found if delay is not None)
        return {
            "recall": self._recall(self.found),
            "recall_up": self._recall([pair for pair in self.found if pair[0].direction == "up"]),
            "recall_down": self._recall([pair for pair in self.found if pair[0].direction == "down"]),
            "recall_persistent": self._recall([pair for pair in self.found if pair[0].end > pair[0].start]),
            "precision": _share(self.num_episodes - self.num_false, self.num_episodes),
            "delay_p50_steps": _quantile(delays, 0.5),
            "delay_p90_steps": _quantile(delays, 0.9),
            "false_alarms_per_100k": _share(1e5 * self.num_false, self.num_quiet),
            "false_confirmed_per_100k": _share(1e5 * self.num_false_confirmed, self.num_quiet),
            "wasted_steps": self.wasted_steps,
        }

    @staticmethod
    def _recall(pairs: list[tuple[Label, int | None]]) -> float | None:
        return _share(sum(delay is not None for _, delay in pairs), len(pairs))


def read_labels(path: Path) -> dict[str, list[Label]]:
    """Return labelled events by curve, from a CSV with at least the columns `curve,direction,start,end`.

    Raises:
        DataError: A column is missing or a cell has unexpected content.
    """
    labels: dict[str, list[Label]] = {}
    try:
        rows = csv.DictReader(text_lines(path))
        if missing := {"curve", "direction", "start", "end"} - set(rows.fieldnames or ()):
            raise DataError(
                f"{path}: the labels have no column {', '.join(sorted(missing))}; the first line is "
                f"{','.join(rows.fieldnames or ())!r}. Needed are curve,direction,start,end."
            )
        for number, row in enumerate(rows, start=2):
            if number > _MOST_LABELS + 1:
                raise DataError(f"{path}: more than {_MOST_LABELS:,} labels; a curve that people looked at has fewer.")
            labels.setdefault(row["curve"] or "", []).append(_label_in(row, f"{path}:{number}"))
    except UNREADABLE as error:
        raise DataError(
            f"{path}: cannot be read as CSV: {reason_in_words(error)}. Give lines of curve,direction,start,end."
        ) from error
    return labels


def _label_in(row: Mapping[str, str], place: str) -> Label:
    try:
        direction: Direction = {"up": "up", "down": "down"}[row["direction"]]  # type: ignore[assignment]
        label = Label(direction, int(row["start"]), int(row["end"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(_no_label(row, place)) from error
    if not (is_count(label.start) and is_count(label.end)):
        raise DataError(_no_label(row, place))
    return label


def _no_label(row: Mapping[str, str], place: str) -> str:
    shown = ",".join(str(cell) for cell in row.values())
    return (
        f"{place}: {shown[:_MOST_SHOWN]!r} is not a label. The direction is up or down, start and end are steps. "
        "Correct the line."
    )


def merged_alarms(verdicts: Iterable[Verdict]) -> list[Alarm]:
    """Return the alarms by start; those within 50 steps of each other are merged."""
    alarms: list[Alarm] = []
    for verdict in sorted((v for v in verdicts if v.kind in ALARMS), key=lambda v: v.start):
        strong = verdict.kind != "suspect"
        if alarms and verdict.start - alarms[-1].end <= MERGE_STEPS:
            alarms[-1].end = max(alarms[-1].end, verdict.end)
            alarms[-1].confirmed |= strong
        else:
            alarms.append(Alarm(verdict.start, verdict.end, strong))
    return alarms


def score_curve(verdicts: Sequence[Verdict], labels: Sequence[Label], steps: Sequence[int]) -> Score:
    """Return the counts of one curve whose logged steps are `steps`."""
    score = Score()
    slack = _usual_interval(steps)
    alarms = [verdict for verdict in verdicts if verdict.kind in ALARMS]
    for label in labels:
        if label.start <= UNSCORED_STEPS:
            continue
        starts = [a.start for a in alarms if a.start <= label.end + slack and a.end >= label.start - slack]
        score.found.append((label, max(0, min(starts) - label.start) if starts else None))
    for episode in merged_alarms(verdicts):
        if episode.end <= UNSCORED_STEPS:
            continue
        touches = any(episode.start <= label.end + slack and episode.end >= label.start - slack for label in labels)
        if touches and episode.start <= UNSCORED_STEPS:
            continue
        score.num_episodes += 1
        score.num_false += not touches
        score.num_false_confirmed += episode.confirmed and not touches
    scored = sorted(step for step in steps if step > UNSCORED_STEPS)
    covered = (bisect_right(scored, label.end) - bisect_left(scored, label.start) for label in labels)
    score.num_quiet = len(scored) - sum(max(0, count) for count in covered)
    return score


def _usual_interval(steps: Sequence[int]) -> int:
    """Return the usual number of steps between two logged steps."""
    return median_high([b - a for a, b in pairwise(steps[-1001:]) if b > a] or [1])


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _quantile(ordered: Sequence[int], share: float) -> int | None:
    """Return the smallest value such that at least `share` of the values are not above it."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
