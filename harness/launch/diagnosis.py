"""`harness diagnose`: finds the ranks that delay the others, their position, and the files to look at."""

from __future__ import annotations

import itertools
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.errors import UsageError
from harness.launch.collectives_dump import FLIGHT_RECORDER, absent_ranks, read_dumps
from harness.launch.last_words import STACKS, read_stacks
from harness.metrics.stragglers import slow_ranks, usual_time
from harness.run.heartbeats import QUIET_AFTER_S, Activity, Beat, active_beats, read_beats
from harness.run.launch_requests import request_stacks
from harness.run.launches import LaunchEnding, LaunchRecord, started_launches
from harness.run.paths import RunDir
from harness.text import listed

ANSWER_WITHIN_S = 30.0
"""Time for the launchers of all nodes to write stacks down. They look for requests every few seconds."""
_NUM_FRAMES = 4
_NUM_STACKS = 8
_NUM_RANGES = 100
SLOW_FACTOR = 2.0
SLOW_AT_LEAST_S = 10.0
"""A rank is slow at reading data if it waited `SLOW_FACTOR` times the median, and at least this many seconds more."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The findings from the heartbeats of a launch."""

    missing: tuple[int, ...]
    """Ranks that never wrote a heartbeat."""
    quiet: tuple[Beat, ...]
    """Ranks that wrote none for `QUIET_AFTER_S`."""
    behind: tuple[Beat, ...]
    """Ranks that are alive but have less progress than the rest."""
    slow_readers: tuple[Beat, ...]
    slow_computers: tuple[Beat, ...]
    """Ranks whose device takes longer than the others for the same computation, the slowest first."""
    beats: tuple[Beat, ...]

    @property
    def is_well(self) -> bool:
        """Return whether nothing was found."""
        return not (self.missing or self.quiet or self.behind or self.slow_readers or self.slow_computers)


def diagnose(beats: Sequence[Beat], world_size: int, now: float) -> Diagnosis:
    """Return the ranks that delay the others (pure), from the last heartbeat of every rank of the launch.

    In a hang all ranks wait for those with the least progress. These may be among the living ranks, because a rank that
    waits in a collective still writes heartbeats.
    """
    active = active_beats(beats)
    quiet = [beat for beat in active if beat.is_quiet(now)]
    living = [beat for beat in active if not beat.is_quiet(now)]
    front = max((beat.position for beat in active), default=(0, 0))
    waited = [beat.spent_s.get(Activity.DATA, 0.0) for beat in active]
    usual = median(waited) if waited else 0.0
    return Diagnosis(
        missing=tuple(sorted(set(range(world_size)) - {beat.rank for beat in beats})),
        quiet=tuple(quiet),
        behind=tuple(beat for beat in living if beat.position < front and now - beat.since > QUIET_AFTER_S),
        slow_readers=tuple(
            beat
            for beat in active
            if beat.spent_s.get(Activity.DATA, 0.0) > max(SLOW_FACTOR * usual, usual + SLOW_AT_LEAST_S)
        ),
        slow_computers=slow_computers(active),
        beats=tuple(beats),
    )


def slow_computers(beats: Sequence[Beat]) -> tuple[Beat, ...]:
    """Return the heartbeats of ranks with a slow device, the slowest first (pure)."""
    by_rank = {beat.rank: beat for beat in beats}
    return tuple(by_rank[rank] for rank in slow_ranks(_compute_times(beats)))


def _compute_times(beats: Sequence[Beat]) -> dict[int, float]:
    return {beat.rank: beat.compute_ms for beat in beats if beat.compute_ms is not None}


def diagnosis_text(run_dir: RunDir, now: float | None = None) -> str:
    """Return a description of the run's last launch, for people.

    Raises:
        UsageError: The run was never started.
    """
    now = time.time() if now is None else now
    started = started_launches(run_dir)
    if not started:
        raise UsageError(
            f"no launch of {run_dir.root} has started; give the directory that training printed at its start, "
            "such as runs/NAME"
        )
    launch = started[-1]
    beats = [beat for beat in read_beats(run_dir) if beat.time >= launch.begun - QUIET_AFTER_S]
    world_size = launch.world_size or len(beats)
    lines = [f"launch {launch.number}: {len(beats)} of {world_size} ranks have given a sign of life"]
    if launch.ended is not None:
        return "\n".join([*lines, *_ended(launch.ended), *_dumps(launch, [beat.rank for beat in beats])])
    found = diagnose(beats, world_size, now)
    return "\n".join(
        [*lines, *_lines(found, now), *_dumps(launch, [beat.rank for beat in (*found.quiet, *found.behind)])]
    )


def ask_for_stacks(run_dir: RunDir, show: Callable[[str], None], patience_s: float = ANSWER_WITHIN_S) -> None:
    """Ask the launchers to write down the stacks of their workers, and wait at most `patience_s` seconds for them.

    Raises:
        UsageError: Nothing of the run is running, or its folder cannot be written.
    """
    started = started_launches(run_dir)
    now = time.time()
    active = active_beats(read_beats(run_dir))
    if not started or started[-1].ended is not None or all(beat.is_quiet(now) for beat in active):
        raise UsageError(
            f"nothing of {run_dir.root} is running, so there are no stacks to ask for; leave --stacks away"
        )
    folder = started[-1].folder
    try:
        asked = request_stacks(folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}; only the user who trains may ask") from None
    world_size = started[-1].world_size or len(active)
    show(f"asking for the stacks of {world_size} ranks, for at most {patience_s:g} s")
    deadline = time.monotonic() + patience_s
    answered: dict[Path, int] = {}
    while _count_answers(folder, asked, answered) < world_size and time.monotonic() < deadline:
        time.sleep(0.5)
    if (number := sum(answered.values())) < world_size:
        show(f"only {number} of {world_size} ranks' stacks are here; is py-spy installed on the nodes? See node_*.log")


def _count_answers(folder: Path, since: float, answered: dict[Path, int]) -> int:
    """Return how many ranks' stacks are here since a time. `answered` has those of the nodes that are known already."""
    for path in folder.glob(STACKS):
        if path not in answered and path.stat().st_mtime >= since:
            answered[path] = len(read_stacks(path))
    return sum(answered.values())


def _ended(ended: LaunchEnding) -> list[str]:
    """Return lines about a launch that has ended: nobody delays it any more."""
    at = f" at {ended.ended}" if ended.ended else ""
    code = "" if ended.exit_code is None else f" with exit code {ended.exit_code}"
    lines = [f"it has ended{at}{code}" + (f": {ended.reason}" if ended.reason else "")]
    if (cause := ended.cause) is not None:
        where = f" on {cause.host}" if cause.host else ""
        log = f"; the end of {cause.log}:" if cause.log and cause.last_lines else ""
        lines += [f"first cause{where}: {cause.text}{log}", *(f"  {line}" for line in cause.last_lines)]
    return lines


def _lines(found: Diagnosis, now: float) -> list[str]:
    lines = []
    if found.missing:
        lines.append(f"no heartbeat: rank {_ranks(found.missing)}; their nodes did not start, see node_*.log")
    lines += [
        f"quiet for {now - beat.time:.0f} s: {_place(beat)}; the process is stopped or dead, or its node is cut off"
        for beat in found.quiet
    ]
    lines += [f"behind: {_place(beat)} since {now - beat.since:.0f} s" for beat in found.behind]
    lines += [
        f"slow at reading data: {_place(beat)}, {beat.spent_s[Activity.DATA]:.0f} s in all; look at its file system"
        for beat in found.slow_readers
    ]
    active = active_beats(found.beats)
    usual_ms = usual_time(_compute_times(active))
    lines += [
        f"slow at computing: {_place(beat)}, {beat.compute_ms:.2f} ms where others take {usual_ms:.2f} ms; "
        "see `nvidia-smi -q -d PERFORMANCE,TEMPERATURE` there"
        for beat in found.slow_computers
    ]
    front = max(active, key=lambda beat: beat.position, default=None)
    if front is not None:
        lines.append(f"the furthest: {_place(front)} since {now - front.since:.0f} s")
    if found.is_well:
        lines.append("nothing stands out" if active else "all ranks have left")
    return lines


def _place(beat: Beat) -> str:
    return f"rank {beat.rank} on {beat.host} (process {beat.pid}), step {beat.step}, {beat.activity}"


def _ranks(ranks: Sequence[int]) -> str:
    """Return ranks in words, with ranges: `0-7, 12`."""
    known = set(ranks)
    starts = [rank for rank in ranks if rank - 1 not in known]
    ends = [rank for rank in ranks if rank + 1 not in known]
    pieces = [str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True)]
    return listed(pieces, _NUM_RANGES)


def _dumps(launch: LaunchRecord, held_up: Sequence[int]) -> list[str]:
    """Return lines about files from before the launch was killed or timed out: stacks, and the last collectives."""
    recorder = launch.folder / FLIGHT_RECORDER
    dumps = read_dumps(recorder)
    stacks = {rank: text for path in sorted(launch.folder.glob(STACKS)) for rank, text in read_stacks(path).items()}
    lines = [
        f"stack of rank {rank}, innermost first: {stack}"
        for rank in held_up[:_NUM_STACKS]
        if (stack := _innermost(stacks.get(rank, "")))
    ]
    if stacks:
        lines.append(f"stacks of {len(stacks)} ranks: {launch.folder}/{STACKS}")
    lines += [f"collectives: {line}" for line in absent_ranks(dumps)]
    if dumps:
        files = f"{shlex.quote(str(recorder))}/node_*.tar"
        unpack = f"cat {files} | tar --extract --ignore-zeros; torchfrtrace --prefix rank_ ."
        lines.append(f"last collectives of {len(dumps)} ranks, in an empty folder: {unpack}")
    return [*lines, f"logs: {Path(launch.folder)}/node_*.log"]


def _innermost(stacks: str) -> str | None:
    """Return the innermost frames of a rank's main thread, by py-spy; None without a stack."""
    lines = stacks.splitlines()
    threads = [number for number, line in enumerate(lines) if line.startswith("Thread ")]
    main = next((number for number in threads if '"MainThread"' in lines[number]), threads[0] if threads else None)
    if main is None:
        return None
    frames = list(itertools.takewhile(lambda line: line.startswith("    "), lines[main + 1 :]))
    return " < ".join(frame.strip() for frame in frames[:_NUM_FRAMES]) or None
