"""Measures what grows with the ranks of a launch, and with the length of a run: `python -m benchmarks.scale`.

Nothing of it needs more than one process. For each number of ranks it measures

- a start, a step, a save and a start that loads of rank 0, in the real training loop, whose other ranks are pretended:
  operations on files of the thread that trains and of the threads beside it, and seconds of rank 0 alone;
- `harness status`, `harness diagnose` and a look of the hang watch at a run with a heartbeat of every rank, in one file
  a node as our launcher writes them, and in one file a rank as under torchrun: files read, and seconds.

Then parts that are adopted one by one, and a watcher that begins anew on metrics of many steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.file_operations import counting
from benchmarks.many_parts import measured as measured_adoptions
from harness.alerts.alert import RunName
from harness.alerts.desk import AlertDesk
from harness.config.load import dump_config, load_config
from harness.launch.diagnosis import diagnosis_text
from harness.launch.status import status_of
from harness.run.event_types import Started
from harness.run.events import append_event
from harness.run.files import replace_file
from harness.run.heartbeats import Activity, Beat, beat_to_json
from harness.run.launches import LAUNCH, LaunchStart, write_launch_file
from harness.run.paths import RunDir
from harness.run.records import StepRecord, to_json_line
from harness.say import say
from harness.watch.announcer import Outputs, WatcherEvents
from harness.watch.hang import HangWatch
from harness.watch.saved_state import WatchState
from harness.watch.watcher import Watcher

RANKS = (64, 1024, 4096, 16384)
RANKS_PER_NODE = 8
_MIB = 1024**2


def of_rank_0(num_ranks: int) -> dict[str, Any]:
    """Return seconds and file operations of rank 0 in a start, a step, a save and a load (`pretended_world`)."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.pretended_world", "--ranks", str(num_ranks), "--folder", folder]
        for further in ([], ["--resume"]):
            done = subprocess.run([*command, *further], capture_output=True, text=True, check=True)
            found |= json.loads(done.stdout)
    return found


def run_of(folder: Path, num_ranks: int, *, by_node: bool) -> RunDir:
    """Make the folder of a run in which every rank gave a heartbeat just now."""
    from benchmarks.pretended_world import config_of

    run_dir = RunDir(folder / "run")
    run_dir.make_folders()
    run_dir.config.write_text(dump_config(config_of(folder, num_ranks)))
    run_dir.launch(1).mkdir()
    start = LaunchStart(started="now", world_size=num_ranks, workers_per_node=RANKS_PER_NODE)
    write_launch_file(run_dir.launch(1) / LAUNCH, start)
    append_event(run_dir.events, Started(attempt=0, step=0))
    run_dir.metrics.write_text(to_json_line(_record(1)))
    beats = [beat_to_json(_beat(rank)) for rank in range(num_ranks)]
    if not by_node:
        for rank, beat in enumerate(beats):
            run_dir.heartbeat(rank).write_text(json.dumps(beat))
        return run_dir
    for node in range(num_ranks // RANKS_PER_NODE):
        ranks = beats[RANKS_PER_NODE * node : RANKS_PER_NODE * (node + 1)]
        replace_file(run_dir.node_heartbeats(node), json.dumps({"ranks": ranks}), durable=False)
    return run_dir


def looks_at(num_ranks: int, *, by_node: bool) -> Iterator[tuple[str, int, float]]:
    """Run each command that looks at heartbeats; yield its name, how many files it opened, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = run_of(Path(folder), num_ranks, by_node=by_node)
        looks: dict[str, Callable[[], object]] = {
            "status": lambda: status_of(run_dir),
            "diagnose": lambda: diagnosis_text(run_dir),
            "hang watch": HangWatch(run_dir, 600.0).look,
        }
        with counting(run_dir.root) as counts:
            for name, look in looks.items():
                counts.take()
                began = time.perf_counter()
                look()
                seconds = time.perf_counter() - began
                opened = {what for _, what in counts.take() if what.startswith("open ")}
                yield name, len(opened), seconds


def first_look_at(num_steps: int) -> tuple[float, float]:
    """Return the size in MiB of the metrics of a run, and the seconds of a watcher's first look at them."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = run_of(Path(folder), RANKS_PER_NODE, by_node=True)
        with run_dir.metrics.open("w") as file:
            file.writelines(to_json_line(_record(step)) for step in range(1, num_steps + 1))
        run_dir.watch.mkdir()
        alerts = AlertDesk(run_dir=run_dir, run=RunName(name="benchmark", folder=str(run_dir.root)))
        events = WatcherEvents(run_dir.events)
        outputs = Outputs(events=events, alerts=alerts, show=lambda _text: None, may_command=False)
        began = time.perf_counter()
        Watcher(run_dir, load_config(run_dir.config), WatchState(), outputs, is_anew=True).look()
        return run_dir.metrics.stat().st_size / _MIB, time.perf_counter() - began


def _record(step: int) -> StepRecord:
    channels = ("en", "code")
    losses = {f"train/lm_loss/{name}": 2.0 for name in channels} | {f"data/tokens/{name}": 64.0 for name in channels}
    return StepRecord(
        attempt=0,
        step=step,
        time=time.time(),
        phase="main",
        consumed_samples=8 * step,
        consumed_tokens=128 * step,
        batch_hash=step,
        positions=((8 * step, 8 * step + 8),),
        values={"train/lm_loss": 2.0, "optim/grad_norm": 1.0, "optim/lr": 1e-3, "perf/step_time_s": 1.0, **losses},
    )


def _beat(rank: int) -> Beat:
    now = time.time()
    return Beat(
        rank=rank,
        host=f"node{rank // RANKS_PER_NODE:05d}",
        pid=1000 + rank,
        step=1,
        activity=Activity.FORWARD_BACKWARD,
        since=now,
        time=now,
        spent_s={"forward-backward": 1.0, "data": 0.1, "optimizer": 0.1},
    )


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--adoptions", type=int, default=4000)
    parser.add_argument("--steps", type=int, nargs="+", default=(20_000, 500_000))
    arguments = parser.parse_args()
    say("rank 0, its other ranks pretended: operations on files of the training thread | beside it | seconds")
    for num_ranks in arguments.ranks:
        for what, told in of_rank_0(num_ranks).items():
            by_thread = {name: sum(counts.values()) for name, counts in told["operations"].items()}
            training = by_thread.pop("MainThread", 0)
            beside = sum(by_thread.values())
            say(f"  {num_ranks:6,} ranks  {what:<6} {training:4d} | {beside:4d} | {told['seconds']:6.2f} s")
    say("looks at a run: files opened, and seconds, with one heartbeat file a node | a rank")
    for num_ranks in arguments.ranks:
        pairs = zip(looks_at(num_ranks, by_node=True), looks_at(num_ranks, by_node=False), strict=True)
        for (name, files, seconds), (_, files_of_ranks, seconds_of_ranks) in pairs:
            say(
                f"  {num_ranks:6,} ranks  {name:<10} {files:6,} {seconds:6.2f} s | "
                f"{files_of_ranks:6,} {seconds_of_ranks:6.2f} s"
            )
    say("parts adopted one by one")
    for line in measured_adoptions(arguments.adoptions):
        say(f"  {json.dumps(line)}")
    say("first look of a watcher that begins anew")
    for num_steps in arguments.steps:
        size, seconds = first_look_at(num_steps)
        say(f"  {num_steps:9,} steps, {size:7.1f} MiB: {seconds:5.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
