"""The fault campaign: kills, failing disks and damage against the checkpoints and the trainer; `make faults`.

Three layers, the same invariants. `store`: every disk call of the checkpoint store, on checkpoints of a real run,
thousands of times. `trainer`: the real trainer, forked from a process that has loaded torch, disturbed by `strace` at
every system call by which it becomes durable, and at random moments. `launch`: `harness train` with two ranks.

Prints how often each family was thrown and what broke, and leaves with 1 if anything did. A trial is drawn from its
name alone, so that it can be played again.

Examples:
  python -m benchmarks.faults --seed 1 --minutes 30
  python -m benchmarks.faults --layer trainer --family SIGKILL --minutes 10
  python -m benchmarks.faults --layer sweep --minutes 120 --processes 2
  python -m benchmarks.faults --replay trainer:1:42
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS / name) for name in ("", "faults", "checkpoint", "train")]

from campaign import SHARES, SWEEP, Stage, Wish, play, replay  # noqa: E402 (it lives with the tests)
from campaigns import memory, say  # noqa: E402
from fault_report import Report, TrialId  # noqa: E402
from found import FOUND  # noqa: E402
from system_calls import is_available  # noqa: E402


def main() -> int:
    """Throws faults until the time is over; the exit code."""
    arguments = _arguments()
    started_s = time.monotonic()
    if not is_available():
        say("strace is not installed: no faults at system calls of the trainer (apt-get install strace)")
    with tempfile.TemporaryDirectory(prefix="harness-faults-", dir=arguments.folder) as folder:
        report = _played(arguments, Path(folder))
    say(str(report))
    say(f"seed {arguments.seed}, {(time.monotonic() - started_s) / 60:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(report.to_json())
    return 1 if report.violations else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="Another seed, other trials.")
    parser.add_argument("--minutes", type=float, default=10.0, help="How long.")
    parser.add_argument("--injections", type=int, help="Stop after this many, if that is earlier.")
    parser.add_argument(
        "--layer",
        choices=[*sorted(SHARES), SWEEP],
        action="append",
        help=f"Only this one; may be repeated. {SWEEP}: the trainer killed at every call that changes the disk, each "
        "once; it ends by itself if --minutes allow it.",
    )
    parser.add_argument("--family", default="", metavar="TEXT", help="Only families whose name contains the text.")
    parser.add_argument("--processes", type=int, default=1, help="How many play at the same time.")
    parser.add_argument("--replay", type=TrialId.parse, metavar="LAYER:SEED:NUMBER", help="Play one trial again.")
    parser.add_argument(
        "--found", action="store_true", help="Play the faults that once broke something, and no others."
    )
    parser.add_argument("--scene", action="append", help="Scenes of the trainer's layer. Default: all.")
    parser.add_argument("--json", type=Path, help="Also write the counts to this file.")
    parser.add_argument("--folder", type=Path, default=memory(), help="Where runs are played. Default: in memory.")
    return parser.parse_args()


def _played(arguments: argparse.Namespace, folder: Path) -> Report:
    stage = Stage(folder, arguments.scene or ())
    if arguments.replay:
        return replay(arguments.replay, stage, arguments.family)
    if arguments.found:
        report = Report()
        for number in range(len(FOUND)):
            report.add(replay(TrialId("found", 0, number), stage))
        return report
    wish = Wish(
        seed=arguments.seed,
        seconds=60 * arguments.minutes,
        layers=arguments.layer or list(SHARES),
        family=arguments.family,
        max_injections=arguments.injections,
        num_processes=arguments.processes,
    )
    return play(wish, stage, say)


if __name__ == "__main__":
    sys.exit(main())
