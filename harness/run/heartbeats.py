"""The heartbeat of a rank: its step, its activity, and since when. Written by a thread, beside training.

`rank_00003.json` is replaced every few seconds, on the node if a launcher gathers heartbeats there (see
`harness.launch.node_files`), otherwise in `<run>/heartbeats`:

    {"rank": 3, "host": "node07", "pid": 4711, "step": 120, "phase": "forward-backward", "since": 1700000000.0,
     "time": 1700000004.2, "spent_s": {"data": 0.4, "forward-backward": 130.2}, "compute_ms": 0.21}

`phase` is the activity, `since` the time at which it began, and `time` the time at which the file was written, both in
seconds since 1970. A rank that waits in a collective still writes, with an old `since`. One that is stopped, dead or
cut off has an old `time`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter

from harness.run.field_types import Count, Rank, Seconds, Text
from harness.run.files import replace_file
from harness.run.own_file import read_own_json
from harness.run.paths import RunDir
from harness.run.small_files import read_json_file

WRITE_EVERY_S = 5.0
QUIET_AFTER_S = 6 * WRITE_EVERY_S
"""A rank without a heartbeat for this long is stopped, dead, or cut off from the file system."""


class Activity(StrEnum):
    """An activity of a rank, in the order in which a step has them."""

    START = "start"
    """Joins the others, opens data, builds the model."""
    LOAD = "load"
    """Reads a checkpoint."""
    DATA = "data"
    """Waits for its batch."""
    FORWARD_BACKWARD = "forward-backward"
    """Computes, and exchanges activations and gradients."""
    OPTIMIZER = "optimizer"
    EVALUATE = "evaluate"
    SAVE = "save"
    LEFT = "left"
    """Left the run without an error."""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """The last heartbeat of a rank."""

    rank: Rank
    host: Text
    pid: Count
    step: Count
    """The step it works on; after the update, the step that is done."""
    activity: Activity
    since: Seconds
    time: Seconds
    spent_s: dict[Text, Seconds]
    """Seconds in each activity since this launch began."""
    compute_ms: Seconds | None = None
    """Time of a fixed computation on its device at the last comparison of the ranks; None before the first one."""

    @property
    def position(self) -> tuple[int, int]:
        """Progress of the rank. A later position is greater."""
        return self.step, list(Activity).index(self.activity)

    def is_quiet(self, now: float) -> bool:
        """Return whether the rank has written nothing for `QUIET_AFTER_S`."""
        return now - self.time > QUIET_AFTER_S


class Heartbeat:
    """Writes the heartbeat of one rank while it is entered."""

    def __init__(
        self, path: Path, rank: int, *, every_s: float = WRITE_EVERY_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._rank = rank
        self._every_s = every_s
        self._clock = clock
        self._now: tuple[Activity, int, float] = (Activity.START, 0, clock())
        self._spent_s: dict[str, float] = {}
        self._taken_s: dict[str, float] = {}
        self.compute_ms: float | None = None
        """Time of a fixed computation on this rank's device, for others to compare."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write a last time: the rank has left, or the activity in which it failed."""
        if kind is None:
            self.enter(Activity.LEFT, self._now[1])
        self._ended.set()
        self._thread.join(timeout=self._every_s)

    def enter(self, activity: Activity, step: int) -> None:
        """Note that an activity begins. Costs less than a microsecond and writes nothing."""
        now = self._clock()
        before, _, since = self._now
        self._spent_s[before] = self._spent_s.get(before, 0.0) + now - since
        self._now = (activity, step, now)

    def take_spent_s(self, activity: Activity) -> float:
        """Return the seconds spent in an activity since the last call, without one that has not ended."""
        spent_s = self._spent_s.get(activity, 0.0)
        taken_s, self._taken_s[activity] = self._taken_s.get(activity, 0.0), spent_s
        return spent_s - taken_s

    def _run(self) -> None:
        while True:
            ended = self._ended.is_set()
            with suppress(OSError):  # a full disk must not end training; the old beat goes stale
                self._write()
            if ended:
                return
            self._ended.wait(self._every_s)

    def _write(self) -> None:
        activity, step, since = self._now
        beat = Beat(
            rank=self._rank,
            host=socket.gethostname(),
            pid=os.getpid(),
            step=step,
            activity=activity,
            since=round(since, 3),
            time=round(self._clock(), 3),
            spent_s={name: round(seconds, 3) for name, seconds in self._spent_s.copy().items()},
            compute_ms=self.compute_ms,
        )
        with suppress(OSError):  # somebody may have removed the folder
            self._path.parent.mkdir(exist_ok=True)
        replace_file(self._path, json.dumps(beat_to_json(beat)) + "\n", durable=False)


_BEAT = TypeAdapter(Beat)


def read_beats(run_dir: RunDir, *, only_own: bool = False) -> Iterator[Beat]:
    """Yield the last heartbeat of every rank that has one, by rank. Files that cannot be read are passed over.

    With `only_own` so are those of other users: for what acts on them, not for what only shows them.
    """
    read = read_own_json if only_own else read_json_file
    newest: dict[int, Beat] = {}
    for path in chain(run_dir.heartbeats.glob("rank_*.json"), run_dir.heartbeats.glob("node_*.json")):
        try:
            fields = read(path)
        except (OSError, ValueError):
            continue
        for beat in _beats_in(fields):
            is_named_so = path.name.startswith("node_") or run_dir.heartbeat(beat.rank).name == path.name
            if is_named_so and (beat.rank not in newest or beat.time > newest[beat.rank].time):
                newest[beat.rank] = beat
    yield from (newest[rank] for rank in sorted(newest))


def _beats_in(fields: object) -> Iterator[Beat]:
    """Yield the heartbeats in the content of a rank's or a node's file, without those that are damaged."""
    if not isinstance(fields, dict):
        return
    ranks = fields.get("ranks", [fields])
    for of_rank in ranks if isinstance(ranks, list) else ():
        if isinstance(of_rank, dict):
            with suppress(ValueError):
                yield _BEAT.validate_python(_with_activity(of_rank))


def _with_activity(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields by the names that they have here."""
    return {("activity" if name == "phase" else name): value for name, value in fields.items()}


def active_beats(beats: Iterable[Beat]) -> list[Beat]:
    """Return the heartbeats of the ranks that have not left."""
    return [beat for beat in beats if beat.activity is not Activity.LEFT]


def beat_to_json(beat: Beat) -> dict[str, object]:
    """Return the beat as it is written: the activity is called `phase` in the file."""
    return {("phase" if name == "activity" else name): value for name, value in asdict(beat).items()}
