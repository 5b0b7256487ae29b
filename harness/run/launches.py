"""The launches of a run, from their folders: who asked for them, when they ran, how they ended, what they saved.

```
launches/0001/config.yaml       the configuration of this launch, with every default and override written out
              submission.json   the request to Slurm by `harness launch`, with git.diff; missing for other starts
              launch.json       when and where it started, in which job, and the newest checkpoint at that time
              node_00000.json   how the workers of a node ended
              ended.json        how the launch ended, and what was decided; missing if the whole job was killed
              nodes.json        the reports of the nodes, by their check before training
              node_0.log        what the ranks of a node wrote, each line with its rank; rank 0 writes to the terminal,
                                in a job to this file
```

A submission's folder is that of the first start of its job; every requeue gets the next folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter

from harness.errors import EXIT_REQUEUE, UsageError
from harness.run.checkpoints.entries import Checkpoint, entries_in
from harness.run.field_types import MOST_RANKS, Count, Flag, Rank, Seconds, Text
from harness.run.files import replace_file
from harness.run.own_file import read_own_json
from harness.run.paths import RunDir
from harness.run.small_files import read_if_valid

CONFIG = "config.yaml"
SUBMISSION = "submission.json"
LAUNCH = "launch.json"
ENDED = "ended.json"
NODES = "nodes.json"
BAD_NODES = "bad_nodes.json"
"""Nodes that the check before training found unfit; a node that has too few GPUs writes `bad_node_00000.json`."""
_NUMBER = re.compile(r"[0-9]{1,9}")
_FAULTS = TypeAdapter(dict[Text, list[Text]])
Content = TypeVar("Content", bound="LaunchFile")


JobId = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if type(value) is int else value),
    Field(strict=True, max_length=64, pattern=r"^[0-9A-Za-z_.+\[\]-]+$"),
]
"""Slurm's number of a job, of a part of it (`4711+1`), or of a task of an array (`4711_2`). File names have it."""
NumRanks = Annotated[int, Field(strict=True, ge=1, le=MOST_RANKS)]
ExitCode = Annotated[int, Field(strict=True, ge=-255, le=255)]


class Progress(NamedTuple):
    """The newest checkpoint of a run. A later one is greater."""

    attempt: Annotated[int, Field(strict=True, ge=-1)]
    step: Count


NOTHING_SAVED = Progress(-1, 0)


class LaunchFile(BaseModel):
    """A JSON file in the folder of a launch. Fields that an earlier version did not write are None."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class GitState(LaunchFile):
    """The source tree that a job was submitted from. Its changes against the commit are in `git.diff`."""

    source: Text
    commit: Text
    changed: Flag


class Submission(LaunchFile):
    """The request of `harness launch` to Slurm: `submission.json`."""

    submitted: Text | None = None
    host: Text | None = None
    command: tuple[Text, ...] = ()
    nodes: NumRanks | None = None
    workers_per_node: NumRanks | None = None
    git: GitState | None = None
    """None outside of git."""
    job_id: JobId | None = None
    """Slurm's number of the job; None until Slurm has given one."""


class LaunchStart(LaunchFile):
    """The start of a launch: `launch.json`."""

    started: Text | None = None
    host: Text | None = None
    pid: Count | None = None
    working_directory: Text | None = None
    command: tuple[Text, ...] = ()
    world_size: NumRanks | None = None
    workers_per_node: NumRanks | None = None
    resume: Text | None = None
    phase: Text | None = None
    """Name of the training phase whose layout the launch has."""
    job_id: JobId | None = None
    """Slurm's number of the job; None outside of Slurm."""
    submission: Text | None = None
    """Name of the folder of the job's submission."""
    newest_checkpoint: Progress | None = None
    """The newest checkpoint when the launch was opened."""


class Failure(LaunchFile):
    """The failure of a rank that brought a launch to its end."""

    rank: Rank | None = None
    """None where no rank is known."""
    host: Text | None = None
    text: Text
    """The failure in words, with the rank."""
    return_code: Annotated[int, Field(strict=True, ge=-255, le=255)]
    """Exit code of its process, or minus the number of the signal that killed it."""
    time: Seconds = 0.0
    """Time at which its launcher noticed, in seconds since 1970."""
    log: Text | None = None
    """The file with its output."""
    last_lines: tuple[Text, ...] = ()
    """The end of its output."""


class LaunchEnding(LaunchFile):
    """The end of a launch, and the decision about its job: `ended.json`."""

    ended: Text | None = None
    exit_code: ExitCode | None = None
    action: Text | None = None
    """`requeue` or `stop`."""
    alert: Flag | None = None
    """True if a person must look."""
    reason: Text | None = None
    cause: Failure | None = None
    """The first failure, from which the others follow."""


class NodeEnd(LaunchFile):
    """The end of the workers of one node: `node_00000.json`."""

    host: Text
    exit_code: ExitCode
    failure: Failure | None = None
    """The first failure on this node; None if no worker failed."""


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
    submission: Submission | None
    launch: LaunchStart | None
    """None while it waits in the queue."""
    ended: LaunchEnding | None

    @property
    def number(self) -> int:
        """Number of the launch."""
        return int(self.folder.name)

    @property
    def job_id(self) -> str | None:
        """Slurm's number of the job; None outside of Slurm."""
        known = self.launch or self.submission
        return None if known is None else known.job_id

    @property
    def world_size(self) -> int | None:
        """Number of ranks; None where it is not known."""
        return None if self.launch is None else self.launch.world_size

    @property
    def begun(self) -> float:
        """Time of the start in seconds since 1970, by the clock of the file system; now, if the file is gone."""
        try:
            return (self.folder / LAUNCH).stat().st_mtime
        except OSError:
            return time.time()


def newest_checkpoint(run_dir: RunDir) -> Progress:
    """Return the newest finished checkpoint of a run, by the manifests."""
    saved = (entry.manifest for entry in entries_in(run_dir.checkpoints) if isinstance(entry, Checkpoint))
    return max((Progress(manifest.attempt, manifest.step) for manifest in saved), default=NOTHING_SAVED)


def launches(run_dir: RunDir, *, only_own: bool = False) -> list[LaunchRecord]:
    """Return the launches of a run, oldest first.

    With `only_own` files of other users count as missing: for what acts on them, not for what only shows them.

    Raises:
        UsageError: Their folder cannot be read.
    """
    try:
        folders = sorted(run_dir.launches.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UsageError(f"{run_dir.launches} cannot be read: {error.strerror}") from None
    read = read_own_launch_file if only_own else read_launch_file
    return [
        LaunchRecord(
            folder=folder,
            submission=read(folder / SUBMISSION, Submission),
            launch=read(folder / LAUNCH, LaunchStart),
            ended=read(folder / ENDED, LaunchEnding),
        )
        for folder in folders
        if _NUMBER.fullmatch(folder.name) and folder.is_dir()
    ]


def started_launches(run_dir: RunDir, *, only_own: bool = False) -> list[LaunchRecord]:
    """Return the launches of a run that no longer wait in the queue, oldest first; `only_own` as in `launches`."""
    return [record for record in launches(run_dir, only_own=only_own) if record.launch is not None]


def begun_of_newest(run_dir: RunDir) -> float:
    """Return the time at which the newest launch that has started began; 0 if none has, or nobody can say."""
    try:
        return max((record.begun for record in started_launches(run_dir)), default=0.0)
    except UsageError:
        return 0.0


def history(run_dir: RunDir, job_id: str) -> list[LaunchEnd]:
    """Return the ends of a job's launches that have started, oldest first.

    The launch that runs now counts as ended. Call this where none of its workers lives any more, or before it is
    opened. Launches that another user wrote down are none of the job's.
    """
    started = [record for record in started_launches(run_dir, only_own=True) if record.job_id == job_id]
    before = [(record.launch and record.launch.newest_checkpoint) or NOTHING_SAVED for record in started]
    after = [*before, newest_checkpoint(run_dir)][1:]
    return [
        LaunchEnd(exit_code=None if record.ended is None else record.ended.exit_code, progressed=later > earlier)
        for record, earlier, later in zip(started, before, after, strict=True)
    ]


def node_log(folder: Path, index: int) -> Path:
    """Return the log of node `index`: of its ranks, and in a job of its launcher, too (slurm/train.sbatch)."""
    return folder / f"node_{index}.log"


def node_end_file(folder: Path, index: int) -> Path:
    """Return the file in which the launcher of node `index` writes down how its workers ended."""
    return folder / f"node_{index:05d}.json"


def write_node_end(folder: Path, index: int, end: NodeEnd) -> None:
    """Write down how the workers of node `index` ended."""
    write_launch_file(node_end_file(folder, index), end)


def node_ends(folder: Path) -> list[NodeEnd]:
    """Return how the workers of each node of this user ended, by index. A node that was killed wrote nothing."""
    found = (read_own_launch_file(path, NodeEnd) for path in sorted(folder.glob("node_*.json")))
    return [end for end in found if end is not None]


def write_launch_file(path: Path, content: LaunchFile) -> None:
    """Write a file of a launch whole: readers see the old content or the new one."""
    replace_file(path, json.dumps(content.model_dump(mode="json", exclude_unset=True), indent=2) + "\n")


def read_launch_file(path: Path, kind: type[Content]) -> Content | None:
    """Return the content of a file of a launch, or None if the file is missing or holds something else."""
    return read_if_valid(path, kind)


def read_own_launch_file(path: Path, kind: type[Content]) -> Content | None:
    """Return the content as `read_launch_file` does, and None for a file of another user: for what acts on it."""
    try:
        return kind.model_validate(read_own_json(path))
    except (OSError, ValueError):
        return None


def write_bad_nodes(path: Path, faults: Mapping[str, Sequence[str]]) -> None:
    """Write down nodes that a job should not get again, with their faults."""
    replace_file(path, json.dumps(faults, indent=2) + "\n")


def bad_nodes_in(launch: Path) -> list[str]:
    """Return the names of the nodes that this user wrote down for a launch, in no file twice."""
    names: list[str] = []
    for path in (launch / BAD_NODES, *sorted(launch.glob("bad_node_*.json"))):
        try:
            names += _FAULTS.validate_python(read_own_json(path))
        except (OSError, ValueError):
            continue
    return list(dict.fromkeys(names))
