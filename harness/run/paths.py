"""Every path inside a run, named once.

```
<run>/config.yaml  plan.txt  metrics.jsonl  events.jsonl  order.jsonl  checked_parts.jsonl  resume_failures.jsonl
      lock
      fence/0000003   (the token of the process that may publish)
      tensorboard/
      signals/  signals/done/  signals/rejected/
      checkpoints/step_0012000/  checkpoints/step_0012000.partial/   (the latter is being written)
      evidence/step_0012040.jsonl
      heartbeats/node_00000.json  heartbeats/rank_00000.json   (the latter of a rank without our launcher)
      watch/state.json  alerts.jsonl  alerts.json  heartbeat.json  report.md  lock
      launches/0001/
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError

RUNS_FOLDER = Path("runs")
"""Folder of the runs, relative to the working directory, unless `--run-dir` is given."""

_STEP_NAME = re.compile(r"step_([0-9]{7,15})")
_LAUNCH_NAME = re.compile(r"[0-9]{4,9}")


class _Inside:
    """A fixed path inside a run's directory."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, run_dir: RunDir, owner: type[RunDir]) -> Path:
        """Return the path in this run."""
        return run_dir.root / self._path


@dataclass(frozen=True)
class RunDir:
    """A run's directory. Computes paths; makes, reads and removes nothing unless the method says so."""

    root: Path

    config = _Inside("config.yaml")
    """The configuration as it ran, with every default written out."""
    plan = _Inside("plan.txt")
    """The plan that follows from the configuration, for people."""
    metrics = _Inside("metrics.jsonl")
    """One JSON object per step."""
    events = _Inside("events.jsonl")
    """One JSON object per event; see `harness.run.events`."""
    tensorboard = _Inside("tensorboard")
    """Folder of the TensorBoard event files."""
    lock = _Inside("lock")
    """File that the training process of this directory keeps locked."""
    fence = _Inside("fence")
    """Folder with one file for the process that may publish in this directory; see `harness.run.fence`."""
    signals = _Inside("signals")
    """Folder into which commands are dropped."""
    signals_done = _Inside("signals/done")
    """Folder of the commands that were carried out."""
    signals_rejected = _Inside("signals/rejected")
    """Folder of the commands that could not be understood."""
    checkpoints = _Inside("checkpoints")
    """Folder of all checkpoints."""
    order = _Inside("order.jsonl")
    """Journal of adopted parts, quarantined documents and rollbacks; see `harness.run.order_file`."""
    checked_parts = _Inside("checked_parts.jsonl")
    """Parts of channels that were read whole and found sound; see `harness.run.checked_parts`."""
    resume_failures = _Inside("resume_failures.jsonl")
    """Starts that failed before they saved anything; see `harness.run.resume_failures`."""
    evidence_folder = _Inside("evidence")
    """Folder of the evidence files."""
    heartbeats = _Inside("heartbeats")
    """Folder of the heartbeat files."""
    watch = _Inside("watch")
    """Folder of the watcher, which makes it itself."""
    watch_state = _Inside("watch/state.json")
    """Everything that the watcher knows of the run; see `harness.watch.saved_state`."""
    watch_alerts = _Inside("watch/alerts.jsonl")
    """One JSON object per alert; see `harness.alerts.desk`."""
    alert_book = _Inside("watch/alerts.json")
    """The alerts that are open, and what waits to be delivered; see `harness.alerts.book`."""
    watch_heartbeat = _Inside("watch/heartbeat.json")
    """The watcher's own heartbeat; see `harness.run.watcher_presence`."""
    watch_report = _Inside("watch/report.md")
    """The report for the person who must look at a run that the watcher has stopped."""
    watch_lock = _Inside("watch/lock")
    """File that the watcher of this directory keeps locked."""
    launches = _Inside("launches")
    """Folder with one folder per job of this run."""

    @classmethod
    def of_run(cls, name: str) -> RunDir:
        """Return the directory of the run called `name` where no `--run-dir` was given."""
        return cls(RUNS_FOLDER / name)

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a finished checkpoint."""
        return self.checkpoints / step_name(step)

    def partial_checkpoint(self, step: int) -> Path:
        """Return the folder of a checkpoint that is being written."""
        return self.checkpoints / f"{step_name(step)}.partial"

    def evidence(self, step: int) -> Path:
        """Return the file with the losses and documents of the samples of suspicious steps."""
        return self.evidence_folder / f"{step_name(step)}.jsonl"

    def heartbeat(self, rank: int) -> Path:
        """Return the heartbeat file of a rank that no launcher of ours has started."""
        return self.heartbeats / f"rank_{rank:05d}.json"

    def node_heartbeats(self, index: int) -> Path:
        """Return the file with the heartbeats of all ranks of a node."""
        return self.heartbeats / f"node_{index:05d}.json"

    def launch(self, number: int) -> Path:
        """Return the folder with command, environment, git state and output of a job. Numbers start at 1."""
        return self.launches / f"{number:04d}"

    def job_log(self, job_id: str) -> Path:
        """Return the output of a Slurm job of this run. For `%j` it is the pattern that Slurm fills in."""
        return self.launches / f"job_{job_id}.log"

    def next_launch_number(self) -> int:
        """Return the highest launch number on disk plus one. Reads the folder."""
        return max(self.launch_numbers(), default=0) + 1

    def launch_numbers(self) -> list[int]:
        """Return the numbers of the launches that have a folder, in order. Reads the folder of all."""
        if not self.launches.is_dir():
            return []
        return sorted(int(path.name) for path in self.launches.iterdir() if _LAUNCH_NAME.fullmatch(path.name))

    def require_run(self) -> None:
        """Return if this is a run's directory, which has a configuration from the first start on.

        Raises:
            UsageError: It is not.
        """
        if not self.config.is_file():
            raise UsageError(
                f"{self.root} is not a run directory: there is no config.yaml in it; "
                "give the directory that training printed at its start, such as runs/NAME"
            )

    def require_launched(self) -> None:
        """Return if something was launched, or at least submitted, in this directory.

        Raises:
            UsageError: Nothing was.
        """
        if not self.launches.is_dir():
            raise UsageError(
                f"{self.root} is not a run directory: nothing was launched there; give the directory that training "
                "printed at its start, such as runs/NAME"
            )

    def make_folders(self) -> None:
        """Make the run's directory and its folders. Those that exist stay as they are."""
        folders = (self.tensorboard, self.signals_done, self.signals_rejected, self.checkpoints)
        for folder in (*folders, self.evidence_folder, self.heartbeats, self.launches):
            folder.mkdir(parents=True, exist_ok=True)


def step_name(step: int) -> str:
    """Return the name of a file or folder of a step. It has 7 digits, so it sorts by step up to step 9,999,999."""
    return f"step_{step:07d}"


def step_of(name: str) -> int | None:
    """Return the step in a name made by `step_name`, or None for any other name (also `step_0000001.partial`)."""
    match = _STEP_NAME.fullmatch(name)
    return int(match[1]) if match else None
