"""The spike watch on real processes: `python -m benchmarks.spike [--seeds 5] [--plot docs/spike.png]`.

Three runs of a small model on real text (`benchmarks.spike_scene`): on clean text; on text with garbled code and with
pages of line breaks in the channel zh, with `harness watch` beside it; and on the same dirty text without it. Prints
the rollbacks of the watcher and the held-out losses of the three runs over several seeds; the spread of the clean runs
is the noise. Plots the curves of the first seed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.spike_scene import SHARES, Scene, configuration, write_corpora
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records

RUNS = ("clean", "watched", "unwatched")
_HARNESS = (sys.executable, "-m", "harness.cli")
_PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that has ended."""

    run_dir: RunDir
    exit_code: int
    log: Path
    """Output of the training."""
    watch_log: Path
    """Output of the watcher, if there was one."""

    def records(self) -> list[StepRecord]:
        """Return the records of the steps that count."""
        return list(read_records(self.run_dir.metrics))

    def held_out(self) -> dict[str, float]:
        """Return the last held-out loss in nats, of every channel and of all, weighted like the run's samples."""
        last = self.records()[-1].values
        losses = {name: last[f"valid/lm_loss/{name}"] for name in SHARES}
        return losses | {"all": sum(losses[name] * share for name, share in SHARES.items()) / sum(SHARES.values())}


def train(root: Path, scene: Scene, kind: str, seed: int) -> Trained:
    """Trains one run with `harness train`; the watched one with `harness watch` beside it."""
    run_dir = RunDir(root / "runs" / f"{kind}-{seed}")
    config = root / f"{kind}-{seed}.yaml"
    values = configuration(root, scene, corpus="clean" if kind == "clean" else "dirty", seed=seed)
    config.write_text(yaml.safe_dump(values, sort_keys=False))
    log, watch_log = config.with_suffix(".log"), config.with_suffix(".watch.log")
    with _started(log, "train", str(config), "--run-dir", str(run_dir.root)) as training:
        if kind == "watched":
            while not run_dir.config.exists() and training.poll() is None:
                time.sleep(0.02)
            with _started(watch_log, "watch", str(run_dir.root)) as watching:
                if training.wait(_PATIENCE_S) == 0:
                    watching.wait(_PATIENCE_S)
        exit_code = training.wait(_PATIENCE_S)
    return Trained(run_dir=run_dir, exit_code=exit_code, log=log, watch_log=watch_log)


@contextmanager
def _started(log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a `harness` command in the background; it is stopped at the end if it still runs."""
    with log.open("wb") as output:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([*_HARNESS, *arguments], env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def table(held_out: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return a table of the held-out losses of the runs: mean over the seeds and standard deviation."""
    columns = [*SHARES, "all"]
    lines = [f"| run | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for kind, losses in held_out.items():
        cells = [_mean_and_spread([loss[column] for loss in losses]) for column in columns]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def main() -> int:
    """Trains, prints, draws; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plot", type=Path, help="Draw the curves of the first seed to this PNG.")
    parser.add_argument("--folder", type=Path, help="Keep everything here. Default: a temporary folder.")
    arguments = parser.parse_args()
    scene = Scene()
    with tempfile.TemporaryDirectory(prefix="harness-spike-") as temporary:
        root = arguments.folder or Path(temporary)
        write_corpora(root, scene)
        trained: dict[str, list[Trained]] = {kind: [] for kind in RUNS}
        for seed in range(1, arguments.seeds + 1):
            for kind in RUNS:
                sys.stderr.write(f"seed {seed}: {kind} …\n")
                run = train(root, scene, kind, seed)
                if run.exit_code != 0:
                    sys.stderr.write(run.log.read_text())
                    return run.exit_code
                trained[kind].append(run)
            sys.stdout.write(f"seed {seed}, the watcher:\n{trained['watched'][-1].watch_log.read_text()}\n")
        sys.stdout.write("\n".join(table({kind: [run.held_out() for run in trained[kind]] for kind in RUNS})) + "\n")
        if arguments.plot:
            from benchmarks.spike_picture import draw

            draw({kind: runs[0].run_dir for kind, runs in trained.items()}, arguments.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
