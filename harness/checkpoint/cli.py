"""The verbs of `harness checkpoint` that need neither torch nor Megatron: list, verify, pin, unpin, prune."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from harness.checkpoint.contents import Progress
from harness.checkpoint.entries import BrokenCheckpoint, Checkpoint, Entry
from harness.checkpoint.retention import RetentionPolicy, to_delete
from harness.checkpoint.store import CheckpointStore
from harness.checkpoint.text import age_text, size_text, table
from harness.checkpoint.verify import verify as problems_of
from harness.errors import EXIT_BAD_DATA, CheckpointError, UsageError
from harness.run_dir import RunDir
from harness.signals.lock import RunLock

RUN_DIR = click.argument("run_dir", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.command("list")
@RUN_DIR
@AS_JSON
def list_checkpoints(run_dir: Path, as_json: bool) -> None:
    """List the checkpoints of RUN_DIR: step, attempt, health, parent, size, age.

    Reads manifests, not files: use `harness checkpoint verify` to know whether the files are right.

    \b
    Example:
      harness checkpoint list runs/tiny
    """
    rows = [_row(entry) for entry in _entries(run_dir)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    header = ("checkpoint", "attempt", "health", "from", "pinned", "size", "age", "loss")
    click.echo(table([header, *(_shown(row) for row in rows)]))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Hash every file (reads all bytes), not only compare sizes.")
@AS_JSON
def verify(paths: tuple[Path, ...], deep: bool, as_json: bool) -> int:
    """Check that checkpoints are what their manifests say.

    PATHS are checkpoint folders, or run directories (all their checkpoints). Leaves with 65 if one is not sound.

    \b
    Examples:
      harness checkpoint verify runs/tiny --deep
      harness checkpoint verify runs/tiny/checkpoints/step_0000300
    """
    found: dict[str, list[str]] = {}
    for folder in _folders(paths):
        with _progress(folder, deep) as advance:
            found[str(folder)] = problems_of(folder, deep, progress=advance)
        if not as_json:
            click.echo(f"{folder}: {'sound' if not found[str(folder)] else '; '.join(found[str(folder)])}")
    if as_json:
        click.echo(json.dumps(found, indent=2))
    return EXIT_BAD_DATA if any(found.values()) else 0


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
def pin(checkpoint: Path) -> None:
    """Keep CHECKPOINT whatever the retention says.

    \b
    Example:
      harness checkpoint pin runs/tiny/checkpoints/step_0000300
    """
    _amend(checkpoint, pinned=True)
    click.echo(f"pinned: {checkpoint}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
def unpin(checkpoint: Path) -> None:
    """Let the retention decide about CHECKPOINT again.

    \b
    Example:
      harness checkpoint unpin runs/tiny/checkpoints/step_0000300
    """
    _amend(checkpoint, pinned=False)
    click.echo(f"no longer pinned: {checkpoint}")


@click.command()
@RUN_DIR
@click.option("--keep-last", type=click.IntRange(min=1), required=True, help="The newest so many stay.")
@click.option("--keep-every-steps", type=click.IntRange(min=1), help="Those of every so many steps stay for good.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(run_dir: Path, keep_last: int, keep_every_steps: int | None, dry_run: bool) -> None:
    """Remove old checkpoints of RUN_DIR; nobody may train there meanwhile.

    Pinned ones and the newest clean one always stay, and nothing is removed unless the newest one that stays is sound.

    \b
    Examples:
      harness checkpoint prune runs/tiny --keep-last 3 --dry-run
      harness checkpoint prune runs/tiny --keep-last 3 --keep-every-steps 10000
    """
    policy = RetentionPolicy(keep_last=keep_last, keep_every_steps=keep_every_steps)
    run = _run(run_dir)
    if dry_run:
        _prune(CheckpointStore(run), policy, dry_run=True)
        return
    with RunLock(run) as lock:
        _prune(CheckpointStore(run, lock.fence), policy, dry_run=False)


def _prune(store: CheckpointStore, policy: RetentionPolicy, *, dry_run: bool) -> None:
    entries = store.list()
    doomed = to_delete(entries, policy)
    kept = [entry for entry in entries if entry not in doomed and isinstance(entry, Checkpoint)]
    if doomed and kept:
        newest = max(kept, key=lambda entry: (entry.manifest.attempt, entry.step, entry.copy))
        if problems := problems_of(newest.path):
            raise CheckpointError(
                f"nothing was removed, because {newest.path}, the newest that would stay, is not sound: "
                f"{'; '.join(problems[:3])}. Remove or restore it first."
            )
    for entry in doomed:
        if not dry_run:
            store.remove(entry)
        click.echo(f"{'would remove' if dry_run else 'removed'}: {entry.path} ({size_text(_bytes(entry))})")
    freed = sum(map(_bytes, doomed))
    click.echo(f"{len(doomed)} checkpoints, {size_text(freed)}; {len(entries) - len(doomed)} stay")


def _run(run_dir: Path) -> RunDir:
    if not RunDir(run_dir).checkpoints.is_dir():
        raise UsageError(
            f"{run_dir} is no run with checkpoints: {RunDir(run_dir).checkpoints} does not exist. Name a run directory."
        )
    return RunDir(run_dir)


def _entries(run_dir: Path) -> list[Entry]:
    return CheckpointStore(_run(run_dir)).list()


def _folders(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        if RunDir(path).checkpoints.is_dir():
            yield from (entry.path for entry in CheckpointStore(RunDir(path)).list())
        elif path.is_dir():
            yield path
        else:
            raise UsageError(f"{path} does not exist. Name checkpoint folders or run directories.")


def _amend(checkpoint: Path, *, pinned: bool) -> None:
    run = RunDir(checkpoint.absolute().parent.parent)
    store = CheckpointStore(run)
    for entry in store.list():
        if entry.path.name == checkpoint.name and isinstance(entry, Checkpoint):
            store.amend(entry, pinned=pinned)
            return
    raise UsageError(f"{checkpoint} is no checkpoint of a run. List them: harness checkpoint list {run.root}")


def _row(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, BrokenCheckpoint):
        return {"path": str(entry.path), "step": entry.step, "problem": entry.problem}
    manifest = entry.manifest
    return {
        "path": str(entry.path),
        "step": entry.step,
        "attempt": manifest.attempt,
        "health": manifest.health,
        "parent": None if manifest.parent is None else manifest.parent.model_dump(),
        "pinned": manifest.pinned,
        "bytes": _bytes(entry),
        "saved_at": manifest.saved_at.isoformat(),
        "loss": manifest.last_losses[-1][1] if manifest.last_losses else None,
    }


def _shown(row: dict[str, Any]) -> tuple[str, ...]:
    name = Path(row["path"]).name
    if "problem" in row:
        return (name, "", f"broken: {row['problem']}", "", "", "", "", "")
    parent = "initial weights" if row["parent"] is None else f"step {row['parent']['step']}"
    loss = "" if row["loss"] is None else f"{row['loss']:.4f}"
    age = age_text(datetime.now(UTC) - datetime.fromisoformat(row["saved_at"]))
    pinned = "yes" if row["pinned"] else ""
    return (name, str(row["attempt"]), row["health"], parent, pinned, size_text(row["bytes"]), age, loss)


def _bytes(entry: Entry) -> int:
    return sum(file.bytes for file in entry.manifest.files.values()) if isinstance(entry, Checkpoint) else 0


@contextmanager
def _progress(folder: Path, deep: bool) -> Iterator[Progress | None]:
    """A bar of the bytes hashed, on a terminal; nothing in a log, where the result is what counts."""
    if not (deep and sys.stdout.isatty()):
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    columns = (folder.name, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, transient=True) as bar:
        task = bar.add_task(folder.name, total=total)
        yield lambda count: bar.advance(task, count)
