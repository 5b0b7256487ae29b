"""The launches of a run, from their folders: who asked for them, when they ran, how they ended, what they saved.

```
launches/0001/submission.json   the request to Slurm by `harness launch`, with git.diff; missing for other starts
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
    """The newest checkpoint of a run. A later one is greater."""

    attempt: int
    step: int


NOTHING_SAVED = Progress(-1, 0)


@dataclass(frozen=True, kw_only=True)
class NodeEnd:
    """The end of the workers of one node."""

    host: str
    exit_code: int


@dataclass(frozen=True, kw_only=True)
class LaunchEnd:
    """The end of one launch of a job."""

    exit_code: int | None
    """Exit code of the launch; None where it was not recorded, because the whole job was killed from outside."""
    progressed: bool
    """True if a newer checkpoint was there after the launch than before it."""

    @property
    def was_cut_short(self) -> bool:
        """Return whether it ended for an outside reason: time limit, preemption, a dead node."""
        return self.exit_code in (EXIT_REQUEUE, None)


@dataclass(frozen=True, kw_only=True)
class LaunchRecord:
    """One launch, as its folder describes it."""

    folder: Path
    submission: Mapping[str, Any] | None
    launch: Mapping[str, Any] | None
    """None while it waits in the queue."""
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
    """Return the newest finished checkpoint of a run, by the manifests."""
    saved = (entry.manifest for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint))
    return max((Progress(manifest.attempt, manifest.step) for manifest in saved), default=NOTHING_SAVED)


def launches(run_dir: RunDir) -> list[LaunchRecord]:
    """Return the launches of a run, oldest first."""
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
    """Return the ends of a job's launches that have started, oldest first.

    The launch that runs now counts as ended. Call this where none of its workers lives any more, or before it is
    opened.
    """
    started = [record for record in launches(run_dir) if record.launch is not None and record.job_id == job_id]
    before = [_progress_before(record) for record in started]
    after = [*before, newest_checkpoint(run_dir)][1:]
    return [
        LaunchEnd(exit_code=None if record.ended is None else record.ended.get("exit_code"), progressed=later > earlier)
        for record, earlier, later in zip(started, before, after, strict=True)
    ]


def write_node_end(folder: Path, index: int, end: NodeEnd) -> None:
    """Write down how the workers of node `index` ended."""
    write_json(folder / f"node_{index:05d}.json", asdict(end))


def node_ends(folder: Path) -> list[NodeEnd]:
    """Return how the workers of each node ended, by index. A node that was killed wrote nothing."""
    found = (read_json(path) for path in sorted(folder.glob("node_*.json")))
    return [NodeEnd(host=str(end["host"]), exit_code=int(end["exit_code"])) for end in found if end is not None]


def write_json(path: Path, fields: Mapping[str, object]) -> None:
    """Write a JSON file whole: readers see the old content or the new one."""
    replace_file(path, json.dumps(fields, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None if the file is missing or holds no object."""
    try:
        fields = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return fields if isinstance(fields, dict) else None


def _progress_before(record: LaunchRecord) -> Progress:
    found = (record.launch or {}).get("newest_checkpoint")
    return Progress(*found) if isinstance(found, list) and len(found) == 2 else NOTHING_SAVED
