"""The fuzzer: damaged, hostile and absurd files against the commands of `harness`; `make fuzz`.

A surface is a kind of file that the product made, damaged at random; the command that meets it must end as documented:
with its exit codes, one message, no traceback, within bounds of time and memory, and what it accepts must be right.

Prints inputs by surface and what broke, and leaves with 1 if anything did. A trial is drawn from its name alone, so
that it can be played again. With --state a later call goes on where this one ended. What broke is made smaller and
kept in tests/fuzz/found, where a test plays it again.

Examples:
  python -m benchmarks.fuzz --minutes 10 --state .fuzz
  python -m benchmarks.fuzz --surface checkpoint --surface tokenizers --minutes 30 --seed 5 --processes 2
  python -m benchmarks.fuzz --replay 'run files:1:42'
  python -m benchmarks.fuzz --replay tests/fuzz/found/run-files/hangs.json
  python -m benchmarks.fuzz --found
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(_TESTS / name) for name in ("", "fuzz", "train", "checkpoint_tools", "data_prep")]
os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked

from campaigns import memory, say  # noqa: E402 (it lives with the tests)
from findings import FOUND  # noqa: E402
from fuzzing import Stage, Wish, fuzz, input_of, inputs_in, replay  # noqa: E402
from surfaces import SURFACES  # noqa: E402
from trials import TrialId  # noqa: E402


def main() -> int:
    """Fuzzes until the time is over; the exit code."""
    arguments = _arguments()
    if arguments.list:
        for surface in SURFACES:
            say(f"{surface.name}: {', '.join(asked.name for asked in surface.asked)}")
        return 0
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="harness-fuzz-", dir=arguments.folder) as folder:
        stage = Stage(Path(folder), arguments.state or Path(folder) / "state", arguments.findings)
        if arguments.replay:
            return _replayed(arguments.replay, stage)
        report = fuzz(_wish(arguments), stage, say)
    say(str(report))
    say(f"seed {arguments.seed}, {(time.monotonic() - started_s) / 60:.1f} minutes")
    if arguments.json:
        arguments.json.write_text(report.to_json())
    return 1 if report.num_findings else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [surface.name for surface in SURFACES]
    parser.add_argument("--seed", type=int, default=0, help="Another seed, other trials.")
    parser.add_argument("--minutes", type=float, default=10.0, help="How long, in this call.")
    parser.add_argument("--inputs", type=int, help="At most this many for each surface, in this call.")
    parser.add_argument("--surface", choices=names, action="append", metavar="NAME", help="Only this one; repeatable.")
    parser.add_argument("--list", action="store_true", help="List the surfaces and their commands.")
    parser.add_argument("--processes", type=int, default=1, help="How many surfaces are played at the same time.")
    parser.add_argument("--state", type=Path, metavar="FOLDER", help="Go on from here, and write here how far it is.")
    parser.add_argument("--replay", metavar="TRIAL|FILE", help="Play one trial, or one kept finding, again.")
    parser.add_argument("--found", action="store_true", help="Play what was once found, and nothing else.")
    parser.add_argument("--also-found", action="store_true", help="Play what was once found first.")
    parser.add_argument("--findings", type=Path, default=FOUND, help="Folder of findings. Default: tests/fuzz/found.")
    parser.add_argument("--json", type=Path, help="Also write the counts to this file.")
    parser.add_argument("--folder", type=Path, default=memory(), help="Where it is played. Default: in memory.")
    return parser.parse_args()


def _wish(arguments: argparse.Namespace) -> Wish:
    return Wish(
        seed=arguments.seed,
        seconds=60 * arguments.minutes,
        surfaces=arguments.surface or (),
        max_inputs=arguments.inputs,
        num_processes=arguments.processes,
        plays_found=arguments.found or arguments.also_found,
        plays_new=not arguments.found,
    )


def _replayed(what: str, stage: Stage) -> int:
    given = inputs_in(Path(what)) if what.endswith(".json") else input_of(TrialId.parse(what), stage)
    say(str(given.to_fields()))
    problems = replay(given, stage)
    for problem in problems:
        say(f"{problem.kind}: {problem.text}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
