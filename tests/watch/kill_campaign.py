"""A real `harness watch`, killed with SIGKILL again and again at moments drawn from a seed, beside a stand-in run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stand_in import ONSET, StandIn, run_dir_in

from harness.watch.saved_state import load_state

PATIENCE_S = 60.0
LAST_STEP = 460
"""Of the second attempt: long after what would call for a rollback."""
_MOST_BEHIND = 12
_CLOCK_JUMPS = (
    "import random, sys, time; true = time.time;"
    "time.time = lambda: true() + random.choice((0, 0, -86400 * 400, 3600, 86400 * 9));"
    "from harness.cli import main; main()"
)
_REPOSITORY = Path(__file__).parents[2]
_GARBAGE = ('{"attempt": 0, "step": 99999, "ti\n', "\0\0\0\0\n", "null\n", "[1, 2]\n", '{"attempt": "x"}\n', "\n")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial is made of; everything else is drawn from the seed."""

    seed: int
    num_kills: int
    dirty: range
    height: float
    clock_jumps: bool = False


@contextmanager
def watching(run: StandIn, *, clock_jumps: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A watcher in a process of its own; killed at the end if it still lives."""
    start = ["-c", _CLOCK_JUMPS] if clock_jumps else ["-m", "harness.cli"]
    process = subprocess.Popen(
        [sys.executable, *start, "watch", str(run.run_dir.root)],
        cwd=_REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def killed_watch(root: Path, trial: Trial) -> tuple[StandIn, int]:
    """The run after a trial, and the exit code of the last watcher, which nobody killed."""
    chance = random.Random(trial.seed)
    run = StandIn(
        run_dir_in(root), dirty=trial.dirty, height=trial.height, changes={"poll_s": 0.01, "least_free_gib": 0}
    )
    for _ in range(trial.num_kills):
        with watching(run, clock_jumps=trial.clock_jumps) as process:
            _train_until(run, chance, _moment(run, chance), process)
    with watching(run, clock_jumps=trial.clock_jumps) as process:
        _train_until(run, chance, lambda: run.attempt > 0 and run.step >= LAST_STEP, process)
        run.event("exit", exit_code=0, reason="all steps are done")
        return run, process.wait(PATIENCE_S)


def _moment(run: StandIn, chance: random.Random) -> Callable[[], bool]:
    """When to kill: at any time, or as soon as the watcher touches one of the files that it writes."""
    kind = chance.choice(("time", "order", "event", "memory"))
    deadline = time.monotonic() + chance.uniform(0.0, 1.2)
    if kind == "time":
        return lambda: time.monotonic() > deadline
    watched = {
        "order": lambda: tuple(sorted(path.name for path in run.run_dir.signals.iterdir())),
        "event": lambda: run.run_dir.events.stat().st_size,
        "memory": lambda: (run.run_dir.watch / "state.partial").exists(),
    }[kind]
    before, deadline = watched(), deadline + 2.0
    return lambda: watched() != before or time.monotonic() > deadline


def _train_until(
    run: StandIn, chance: random.Random, condition: Callable[[], bool], process: subprocess.Popen[bytes]
) -> None:
    """Trains, but never far ahead of the watcher, until something holds."""
    started = time.monotonic()
    while not condition():
        assert process.poll() is None, f"the watcher left with {process.returncode}"
        assert time.monotonic() - started < PATIENCE_S, f"nothing within {PATIENCE_S} s at step {run.step}"
        state = load_state(run.run_dir.watch / "state.json")
        if run.step == 0 or (state is not None and state.step >= run.step - _MOST_BEHIND) or _is_rewound(run, state):
            run.train(chance.randint(1, 3))
            if chance.random() < 0.05:
                with run.run_dir.metrics.open("a") as file:
                    file.write(chance.choice(_GARBAGE))
        time.sleep(chance.uniform(0.0, 0.004))


def _is_rewound(run: StandIn, state: object) -> bool:
    """Whether the watcher has not heard yet of the attempt that the run is in."""
    return state is not None and getattr(state, "attempt", 0) < run.attempt and run.step < ONSET
