"""The verbs of `harness checkpoint` that need neither torch nor Megatron: list, verify, pin, unpin, prune, sign."""
# ruff: noqa: D301 (click takes a backspace character in a docstring for "do not wrap this paragraph")

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from harness.errors import EXIT_BAD_DATA, CheckpointError, SaveFailedError, UsageError
from harness.limits import MOST_STEPS
from harness.progress import shown
from harness.run.checkpoints.contents import Progress
from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint, Entry
from harness.run.checkpoints.key_option import key_of_checkpoint, key_of_run, signature_key_option
from harness.run.checkpoints.retention import RetentionPolicy, before_steps, evidence_steps, to_delete
from harness.run.checkpoints.store import CheckpointStore
from harness.run.checkpoints.verify import has_index, index_problems
from harness.run.checkpoints.verify import sign as sign_checkpoint
from harness.run.checkpoints.verify import verify as problems_of
from harness.run.files import broken_link
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.say import say
from harness.text import age_text, size_text, table

RUN_DIR = click.argument("run_dir", type=click.Path(path_type=Path))
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


@click.command("list")
@RUN_DIR
@signature_key_option
@AS_JSON
def list_checkpoints(run_dir: Path, key_file: Path | None, as_json: bool) -> None:
    """List the checkpoints of RUN_DIR: step, attempt, health, parent, size, age.

    Reads manifests, not files: use `harness checkpoint verify` to know whether the files are right.

    \b
    Example:
      harness checkpoint list runs/tiny
    """
    run = _run(run_dir)
    rows = [_row(entry) for entry in CheckpointStore(run, key=key_of_run(run, key_file)).list()]
    if as_json:
        say(json.dumps(rows, indent=2))
        return
    header = ("checkpoint", "attempt", "health", "from", "pinned", "size", "age", "loss")
    say(table([header, *(_shown(row) for row in rows)]))


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--deep", is_flag=True, help="Hash every file (reads all bytes), not only compare sizes.")
@signature_key_option
@AS_JSON
def verify(paths: tuple[Path, ...], deep: bool, key_file: Path | None, as_json: bool) -> int:
    """Check that checkpoints are what their manifests say, and that their tensors are whole.

    PATHS are checkpoint folders, or run directories (all their checkpoints). Exits with 65 if one is not sound.

    \b
    Examples:
      harness checkpoint verify runs/tiny --deep
      harness checkpoint verify runs/tiny/checkpoints/step_0000300
    """
    found: dict[str, list[str]] = {}
    for folder in _folders(paths):
        with _progress(folder, deep) as advance:
            key = key_of_checkpoint(folder, key_file)
            problems = problems_of(folder, deep, key=key, progress=advance)
        indexed = has_index(folder)
        found[str(folder)] = problems or (index_problems(folder) if indexed else [])
        if not as_json:
            sound = "sound" if indexed else "sound; it has no index of tensors, and cannot be loaded"
            say(f"{folder}: {'; '.join(found[str(folder)]) or sound}")
    if as_json:
        say(json.dumps(found, indent=2))
    return EXIT_BAD_DATA if any(found.values()) else 0


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@signature_key_option
def pin(checkpoint: Path, key_file: Path | None) -> None:
    """Keep CHECKPOINT whatever the retention policy is.

    \b
    Example:
      harness checkpoint pin runs/tiny/checkpoints/step_0000300
    """
    _amend(checkpoint, key_file, pinned=True)
    say(f"pinned: {checkpoint}")


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@signature_key_option
def unpin(checkpoint: Path, key_file: Path | None) -> None:
    """Apply the retention policy to CHECKPOINT again.

    \b
    Example:
      harness checkpoint unpin runs/tiny/checkpoints/step_0000300
    """
    _amend(checkpoint, key_file, pinned=False)
    say(f"no longer pinned: {checkpoint}")


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@signature_key_option
def sign(checkpoints: tuple[Path, ...], key_file: Path | None) -> None:
    """Sign CHECKPOINTS that were saved or converted without a key, after hashing every file.

    From then on they are accepted where `checkpoint.signature_key_file` asks for signatures. Sign only what you trust:
    whoever could change the files until now could also change their hashes.

    \b
    Example:
      harness checkpoint sign runs/tiny/checkpoints/step_0000300 --signature-key-file ~/.harness-key
    """
    for checkpoint in checkpoints:
        key = key_of_checkpoint(checkpoint, key_file)
        if key is None:
            raise UsageError("there is no key to sign with: give --signature-key-file")
        with _progress(checkpoint, deep=True) as advance:
            sign_checkpoint(checkpoint, key, progress=advance)
        say(f"signed: {checkpoint}")


@click.command()
@RUN_DIR
@click.option(
    "--keep-last", type=click.IntRange(1, MOST_STEPS), required=True, help="Number of newest checkpoints to keep."
)
@click.option(
    "--keep-every-steps", type=click.IntRange(1, MOST_STEPS), help="Keep every step that this divides for good."
)
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@signature_key_option
def prune(run_dir: Path, keep_last: int, keep_every_steps: int | None, dry_run: bool, key_file: Path | None) -> None:
    """Remove old checkpoints of RUN_DIR; nobody may train there meanwhile.

    Pinned ones, the newest clean one, and those that evidence refers to always stay, and nothing is removed unless the
    newest one that stays is sound.

    \b
    Examples:
      harness checkpoint prune runs/tiny --keep-last 3 --dry-run
      harness checkpoint prune runs/tiny --keep-last 3 --keep-every-steps 10000
    """
    policy = RetentionPolicy(keep_last=keep_last, keep_every_steps=keep_every_steps)
    run = _run(run_dir)
    key = key_of_run(run, key_file)
    if dry_run:
        _prune(CheckpointStore(run, key=key), policy, dry_run=True)
        return
    with RunLock(run) as lock:
        _prune(CheckpointStore(run, lock.fence, key), policy, dry_run=False)


def _prune(store: CheckpointStore, policy: RetentionPolicy, *, dry_run: bool) -> None:
    entries = store.list()
    doomed = to_delete(entries, policy, before_steps(entries, evidence_steps(store.run_dir)))
    kept = [entry for entry in entries if entry not in doomed and isinstance(entry, Checkpoint)]
    if doomed and kept:
        newest = max(kept, key=lambda entry: (entry.manifest.attempt, entry.step, entry.copy))
        if problems := problems_of(newest.path, key=store.key):
            raise CheckpointError(
                f"nothing was removed, because {newest.path}, the newest that would stay, is not sound: "
                f"{'; '.join(problems[:3])}. Remove or restore it first."
            )
    for entry in doomed:
        if not dry_run:
            store.remove(entry)
        what = size_text(_bytes(entry)) if entry.links_to is None else f"the link; {entry.links_to} stays"
        say(f"{'would remove' if dry_run else 'removed'}: {entry.path} ({what})")
    freed = sum(_bytes(entry) for entry in doomed if entry.links_to is None)
    say(f"{len(doomed)} checkpoints, {size_text(freed)}; {len(entries) - len(doomed)} stay")


def _run(run_dir: Path) -> RunDir:
    folder = RunDir(run_dir).checkpoints
    if not folder.is_dir():
        problem = next(filter(None, map(_broken, (run_dir, folder))), f"{folder} does not exist")
        raise UsageError(f"{run_dir} is not a run with checkpoints: {problem}. Name a run directory.")
    return RunDir(run_dir)


def _folders(paths: Sequence[Path]) -> Iterable[Path]:
    for path in paths:
        if RunDir(path).checkpoints.is_dir():
            yield from (entry.path for entry in CheckpointStore(RunDir(path)).list())
        elif path.is_dir():
            yield path
        else:
            problem = _broken(path) or f"{path} does not exist"
            raise UsageError(f"{problem}. Name checkpoint folders or run directories.")


def _broken(path: Path) -> str | None:
    problem = broken_link(path)
    return None if problem is None else f"{path} {problem}"


def _amend(checkpoint: Path, key_file: Path | None, *, pinned: bool) -> None:
    run = RunDir(checkpoint.absolute().parent.parent)
    store = CheckpointStore(run, key=key_of_run(run, key_file))
    for entry in store.list():
        if entry.path.name != checkpoint.name:
            continue
        if isinstance(entry, BrokenCheckpoint):
            raise CheckpointError(f"{checkpoint} was not changed: {entry.problem}")
        if entry.manifest.signature is not None and store.key is None:
            raise UsageError(f"{checkpoint} is signed, and would not be any more: give --signature-key-file")
        try:
            store.amend(entry, pinned=pinned)
        except SaveFailedError as error:
            raise CheckpointError(str(error)) from None
        return
    raise UsageError(f"{checkpoint} is not a checkpoint of a run. List them: harness checkpoint list {run.root}")


def _row(entry: Entry) -> dict[str, Any]:
    if isinstance(entry, BrokenCheckpoint):
        return {"path": str(entry.path), "step": entry.step, "problem": entry.problem}
    manifest = entry.manifest
    return {
        "path": str(entry.path),
        **({} if entry.links_to is None else {"links_to": str(entry.links_to)}),
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
    last = f"{loss}  -> {row['links_to']}" if "links_to" in row else loss
    return (name, str(row["attempt"]), row["health"], parent, pinned, size_text(row["bytes"]), age, last)


def _bytes(entry: Entry) -> int:
    return sum(file.bytes for file in entry.manifest.files.values()) if isinstance(entry, Checkpoint) else 0


@contextmanager
def _progress(folder: Path, deep: bool) -> Iterator[Progress | None]:
    """Show the progress of hashing: a bar on a terminal, a line every few seconds in a log."""
    if not deep:
        yield None
        return
    total = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    with shown(folder.name, total) as advance:
        yield advance
