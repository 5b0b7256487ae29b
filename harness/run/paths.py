"""Every path inside a run, named once.

```
<run>/config.yaml  plan.txt  metrics.jsonl  events.jsonl  order.jsonl  resume_failures.jsonl  lock
      fence/0000003   (the number of whoever may publish)
      tensorboard/
      signals/  signals/done/  signals/rejected/
      checkpoints/step_0012000/  checkpoints/step_0012000.partial/   (the latter is being written)
      evidence/step_0012040.jsonl
      heartbeats/rank_00000.json
      watch/state.json  alerts.jsonl  heartbeat.json  report.md  lock
      launches/0001/
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUNS_FOLDER = Path("runs")
"""Where runs are kept, relative to the working directory, unless `--run-dir` says otherwise."""

_STEP_NAME = re.compile(r"step_([0-9]{7,})")
_LAUNCH_NAME = re.compile(r"[0-9]{4,}")


@dataclass(frozen=True)
class RunDir:
    """A run's directory. Computes paths; makes, reads and removes nothing unless the method says so."""

    root: Path

    @classmethod
    def of_run(cls, name: str) -> RunDir:
        """The directory of the run called `name` where no `--run-dir` was given."""
        return cls(RUNS_FOLDER / name)

    @property
    def config(self) -> Path:
        """The configuration as it ran, with every default written out."""
        return self.root / "config.yaml"

    @property
    def plan(self) -> Path:
        """What followed from the configuration, for people."""
        return self.root / "plan.txt"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.root / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One JSON object per event; see `harness.run.events`."""
        return self.root / "events.jsonl"

    @property
    def tensorboard(self) -> Path:
        """Folder of the TensorBoard event files."""
        return self.root / "tensorboard"

    @property
    def lock(self) -> Path:
        """File that the one process training in this directory keeps locked."""
        return self.root / "lock"

    @property
    def fence(self) -> Path:
        """Folder with a file for whoever may publish in this directory; see `harness.run.fence`."""
        return self.root / "fence"

    @property
    def signals(self) -> Path:
        """Folder into which commands are dropped."""
        return self.root / "signals"

    @property
    def signals_done(self) -> Path:
        """Folder of the commands that were carried out."""
        return self.signals / "done"

    @property
    def signals_rejected(self) -> Path:
        """Folder of the commands that could not be understood."""
        return self.signals / "rejected"

    @property
    def checkpoints(self) -> Path:
        """Folder of all checkpoints."""
        return self.root / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The finished checkpoint of a step."""
        return self.checkpoints / step_name(step)

    def partial_checkpoint(self, step: int) -> Path:
        """The checkpoint of a step while it is being written."""
        return self.checkpoints / f"{step_name(step)}.partial"

    @property
    def order(self) -> Path:
        """When parts were adopted and documents put into quarantine; see `harness.run.order_file`."""
        return self.root / "order.jsonl"

    @property
    def resume_failures(self) -> Path:
        """Starts that failed before they saved anything; see `harness.train.start.failures`."""
        return self.root / "resume_failures.jsonl"

    @property
    def evidence_folder(self) -> Path:
        """Folder of the evidence files."""
        return self.root / "evidence"

    def evidence(self, step: int) -> Path:
        """What each sample of a suspicious step was, and what it lost."""
        return self.evidence_folder / f"{step_name(step)}.jsonl"

    @property
    def heartbeats(self) -> Path:
        """Folder of the heartbeat files."""
        return self.root / "heartbeats"

    def heartbeat(self, rank: int) -> Path:
        """What a rank did last."""
        return self.heartbeats / f"rank_{rank:05d}.json"

    @property
    def watch(self) -> Path:
        """Folder of the watcher; it makes it itself."""
        return self.root / "watch"

    @property
    def launches(self) -> Path:
        """Folder with one folder per job of this run."""
        return self.root / "launches"

    def launch(self, number: int) -> Path:
        """Command, environment, git state and output of a job; numbers start at 1."""
        return self.launches / f"{number:04d}"

    def next_launch_number(self) -> int:
        """One more than the highest launch on disk; reads the folder."""
        if not self.launches.is_dir():
            return 1
        numbers = [int(path.name) for path in self.launches.iterdir() if _LAUNCH_NAME.fullmatch(path.name)]
        return max(numbers, default=0) + 1

    def make_folders(self) -> None:
        """Make the run's directory and the folders in it; those that exist are left alone."""
        folders = (self.tensorboard, self.signals_done, self.signals_rejected, self.checkpoints)
        for folder in (*folders, self.evidence_folder, self.heartbeats, self.launches):
            folder.mkdir(parents=True, exist_ok=True)


def step_name(step: int) -> str:
    """Name of what belongs to a step, with 7 digits: it sorts by step up to 9,999,999 of them."""
    return f"step_{step:07d}"


def step_of(name: str) -> int | None:
    """The step of a name made by `step_name`, None for any other name (also `step_0000001.partial`)."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None
