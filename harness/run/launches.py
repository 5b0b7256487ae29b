"""What is known about the launches of a run: who asked for them, when they ran, how they ended, what they saved.

```
launches/0001/submission.json   what `harness launch` asked Slurm for, with git.diff: only where it did
              launch.json       when and where it started, in which job, and the newest checkpoint at that time
              node_00000.json   how the workers of a node ended
              ended.json        how the launch ended, and what was decided; missing if the whole job was killed
```

A submission's folder is that of the first start of its job; every requeue gets the next folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import EXIT_REQUEUE
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.run.files import replace_file
from harness.run.paths import RunDir

SUBMISSION = "submission.json"
LAUNCH = "launch.json"
ENDED = "ended.json"


class Progress(NamedTuple):
    """The newest checkpoint of a run: how far it has come. Compares like time."""

    attempt: int
    step: int


NOTHING_SAVED = Progress(-1, 0)


@dataclass(frozen=True, kw_only=True)
class NodeEnd:
    """How the workers of one node ended."""

    host: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class LaunchEnd:
    """How one launch of a job ended."""

    exit_code: int | None
    """Exit code of the launch; None where nobody wrote it down, because the whole job was killed from outside."""
    progressed: bool
    """Whether a newer checkpoint was there afterwards than before."""

    @property
    def was_cut_short(self) -> bool:
        """Whether it ended through no fault of its own: time limit, preemption, a dead node."""
        return self.exit_code in (EXIT_REQUEUE, None)


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """One launch as its folder tells it."""

    folder: Path
    submission: Mapping[str, Any] | None
    launch: Mapping[str, Any] | None
    """None: it waits in the queue."""
    ended: Mapping[str, Any] | None

    @property
    def number(self) -> int:
        """Number of the launch."""
        return int(self.folder.name)

    @property
    def job_id(self) -> str | None:
        """Slurm's number of the job; None outside of Slurm."""
        found = (self.launch or self.submission or {}).get("job_id")
        return None if found is None else str(found)


def newest_checkpoint(run_dir: RunDir) -> Progress:
    """Return how far the run has come, by the manifests of its finished checkpoints."""
    saved = (entry.manifest for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint))
    return max((Progress(manifest.attempt, manifest.step) for manifest in saved), default=NOTHING_SAVED)


def launches(run_dir: RunDir) -> list[LaunchRecord]:
    """The launches of a run, oldest first."""
    folders = run_dir.launches.iterdir() if run_dir.launches.is_dir() else ()
    return [
        LaunchRecord(
            folder=folder,
            submission=read_json(folder / SUBMISSION),
            launch=read_json(folder / LAUNCH),
            ended=read_json(folder / ENDED),
        )
        for folder in sorted(folders)
        if folder.is_dir() and folder.name.isdecimal()
    ]


def history(run_dir: RunDir, job_id: str) -> list[LaunchEnd]:
    """How the launches of a job ended that have started and are over, oldest first.

    The launch that runs now counts as over: call it where no worker of it lives any more, or before it is opened.
    """
    started = [record for record in launches(run_dir) if record.launch is not None and record.job_id == job_id]
    before = [_progress_before(record) for record in started]
    after = [*before, newest_checkpoint(run_dir)][1:]
    return [
        LaunchEnd(exit_code=None if record.ended is None else record.ended.get("exit_code"), progressed=later > earlier)
        for record, earlier, later in zip(started, before, after, strict=True)
    ]


def write_node_end(folder: Path, index: int, end: NodeEnd) -> None:
    """Notes how the workers of the node with that index ended."""
    write_json(folder / f"node_{index:05d}.json", asdict(end))


def node_ends(folder: Path) -> list[NodeEnd]:
    """How the workers of each node ended, by index; a node that was killed wrote nothing."""
    found = (read_json(path) for path in sorted(folder.glob("node_*.json")))
    return [NodeEnd(host=str(end["host"]), exit_code=int(end["exit_code"])) for end in found if end is not None]


def write_json(path: Path, fields: Mapping[str, object]) -> None:
    """Writes a file whole: readers see its old content or its new one."""
    replace_file(path, json.dumps(fields, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file, None where there is no such file or nothing of the kind in it."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def _progress_before(record: LaunchRecord) -> Progress:
    found = (record.launch or {}).get("newest_checkpoint")
    return Progress(*found) if isinstance(found, list) and len(found) == 2 else NOTHING_SAVED
