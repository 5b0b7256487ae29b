"""Measures saving, rolling back and verifying: `python -m benchmarks.checkpoints`.

Each is measured beside the obvious alternative, on this machine, with `harness train` as users start it:

- a save that training waits for, and one that is written beside it: seconds without a step;
- a rollback in the running job (out of the shared store, and out of the host's memory), and a stop and a restart of the
  same run that does the same: seconds from the command to the next recorded step, and those of the rollback itself;
- `harness checkpoint verify --deep`, and reading the same bytes: gigabytes per second, all in the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS), str(_TESTS / "train")]

from process_runs import Command, Site  # noqa: E402 (they live with the tests)

from benchmarks.measured_machine import versions  # noqa: E402
from harness.run import metric_names as names  # noqa: E402
from harness.run.checkpoints.manifest import read_manifest  # noqa: E402
from harness.run.checkpoints.verify import verify  # noqa: E402
from harness.run.event_types import RolledBack  # noqa: E402
from harness.run.events import read_events  # noqa: E402

SAVE_EVERY = 4
"""Steps between saves in the runs that measure rollbacks."""
SAVES_APART = 16
"""Steps from one save to the next where saves are measured: more than a save beside training takes."""
_CHUNK_BYTES = 4 * 1024**2


def site_in(root: Path, hidden_size: int, **checkpoint: object) -> Site:
    """Return a run of one rank, large enough that its checkpoints are more than their small files."""
    site = Site(root)
    site.config["model"] |= {
        "num_layers": 8,
        "hidden_size": hidden_size,
        "num_attention_heads": 8,
        "ffn_hidden_size": 11 * hidden_size // 4,
    }
    site.config["optimizer"]["learning_rate"] = 1e-4
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY, **checkpoint}
    return site


def lines(site: Site) -> list[dict[str, Any]]:
    """Return every recorded step, also those abandoned by a rollback."""
    path = site.run_dir.metrics
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def finish(command: Command) -> None:
    """Waits for the end of a launch, which must be a good one."""
    code, text = command.finish()
    if code not in (0, 77):
        raise SystemExit(f"a launch left with {code}:\n{text}")


def saves(site: Site, num_saves: int) -> tuple[float, float]:
    """Return the medians of seconds without a step and of seconds in all, over the regular saves of a run."""
    site.config["checkpoint"]["save_every_steps"] = SAVES_APART
    site.config["run"]["stop_at_step"] = SAVES_APART * (num_saves + 1) - 1  # the last save is waited for in any case
    finish(site.train())
    found = lines(site)
    stalls: list[float] = []
    for line in found:
        stall = float(line.get(names.SAVE_STALL_S, 0.0))
        if (line["step"] - 1) % SAVES_APART == 0 and line["step"] > 1:
            stalls.append(stall)  # the step after the one at which the save began
        elif stalls:
            stalls[-1] += stall
    return median(stalls), median(float(line[names.SAVE_S]) for line in found if names.SAVE_S in line)


def seconds_to_next_step(site: Site, command: Callable[[Site], Iterator[None]]) -> float:
    """From a command, given when the checkpoint to return to is there, to the first step of the new attempt."""
    site.config["run"]["stop_at_step"] = 3 * SAVE_EVERY
    target = site.run_dir.checkpoint(SAVE_EVERY)
    with site.train() as launch:
        launch.wait_until(lambda: target.exists() and len(lines(site)) > SAVE_EVERY)
        began = time.time()
        with contextmanager(command)(site):
            finish(launch)
    return min(line["time"] for line in lines(site) if line["attempt"] > 0) - began


def in_the_job(site: Site) -> Iterator[None]:
    """Commands a rollback of the running job."""
    command = {"kind": "rollback", "to_step": SAVE_EVERY, "skip_steps": [SAVE_EVERY + 1, SAVE_EVERY + 1]}
    (site.run_dir.signals / "back.tmp").write_text(json.dumps(command))
    (site.run_dir.signals / "back.tmp").rename(site.run_dir.signals / "back.json")
    yield


def by_restart(site: Site) -> Iterator[None]:
    """Commands the job to stop, waits until it has, and starts it again with the rollback."""
    (site.run_dir.signals / "stop").touch()
    yield
    skip = f"{SAVE_EVERY + 1}:{SAVE_EVERY + 1}"
    finish(site.train("--rollback-to", str(SAVE_EVERY), "--skip-steps", skip))


def stages_of_rollback(site: Site) -> str:
    """Return the seconds of the rollback in the running job, and what they went into; nothing after a restart."""
    rollbacks = [event for event in read_events(site.run_dir.events) if isinstance(event, RolledBack)]
    stages = rollbacks[-1].stages if rollbacks else None
    if stages is None:
        return ""
    return f"{sum(stages.values()):.2f}: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items())


def read_all(folder: Path) -> int:
    """Reads every file of a checkpoint as fast as one thread can; the number of bytes."""
    buffer, total = bytearray(_CHUNK_BYTES), 0
    for path in sorted(folder.iterdir()):
        descriptor = os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                total += count
    return total


def throughput(folder: Path, rounds: int) -> tuple[int, float, float]:
    """Return the bytes of a checkpoint, and the best rates of verifying and of reading it, in bytes per second."""
    total = read_all(folder)

    def rate(work: Callable[[], object]) -> float:
        times = []
        for _ in range(rounds):
            started_s = time.perf_counter()
            work()
            times.append(time.perf_counter() - started_s)
        return total / min(times)

    if problems := verify(folder, deep=True):
        raise SystemExit(f"{folder} is not sound: {problems}")
    return total, rate(lambda: verify(folder, deep=True)), rate(lambda: read_all(folder))


def main() -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=512, help="Width of the model: 8 layers, fp32.")
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5, help="Of verifying and reading.")
    arguments = parser.parse_args()
    say = sys.stdout.write
    say(f"{versions()}; {os.cpu_count()} cores\n\n")
    with tempfile.TemporaryDirectory(prefix="harness-checkpoints-") as folder:
        root, width = Path(folder), arguments.hidden_size
        waited, beside = site_in(root / "waited", width), site_in(root / "beside", width, async_save=True)
        waited_s, beside_s = saves(waited, arguments.saves), saves(beside, arguments.saves)
        newest = waited.run_dir.checkpoint(SAVES_APART)
        total, verified, read = throughput(newest, arguments.rounds)
        kind = read_manifest(newest).versions.torch
        say(f"one checkpoint: {total / 1e9:.2f} GB, written by one rank (torch {kind})\n\n")
        say("| save | without a step, s | in all, s |\n|---|---|---|\n")
        say(f"| waited for | {waited_s[0]:.2f} | {waited_s[1]:.2f} |\n")
        share = 100 * beside_s[0] / waited_s[0]
        say(f"| beside training | {beside_s[0]:.2f} ({share:.0f} %) | {beside_s[1]:.2f} |\n\n")
        ways: dict[str, tuple[dict[str, Any], Callable[[Site], Iterator[None]]]] = {
            "in the job, out of the host's memory": ({"snapshot_every_steps": SAVE_EVERY}, in_the_job),
            "in the job, out of the store": ({}, in_the_job),
            "in the job, out of the store, saved beside training": ({"async_save": True}, in_the_job),
            "stop, and restart with --rollback-to": ({}, by_restart),
        }
        say("| rollback | from the command to the next step, s | itself, s | a step, s |\n|---|---|---|---|\n")
        for number, (name, (settings, command)) in enumerate(ways.items()):
            site = site_in(root / str(number), width, **settings)
            seconds = seconds_to_next_step(site, command)
            step_s = median(float(line[names.STEP_TIME_S]) for line in lines(site))
            say(f"| {name} | {seconds:.1f} | {stages_of_rollback(site)} | {step_s:.2f} |\n")
        say("\n| deep verification | GB/s |\n|---|---|\n")
        say(f"| `harness checkpoint verify --deep` | {verified / 1e9:.2f} |\n")
        say(f"| reading the same bytes, one thread | {read / 1e9:.2f} |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
