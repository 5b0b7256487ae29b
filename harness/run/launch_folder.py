"""Opens the folder of one launch (see `launches`), and writes the run's `config.yaml`.

`<run>/config.yaml` is the configuration of the newest launch that could begin; those of all launches are in their
folders, where their workers read them: a start that is refused leaves the run's as it was. A launch may differ from
the one before it: the trainer compares the checkpoint with the configuration. It goes on if only `parallel`, `logging`,
`checkpoint` or `evaluation` differ, and refuses if the model would be another one. Nothing here is written unless the
caller holds the run's lock.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from harness.config.load import dump_config, load_config
from harness.config.schema import Config
from harness.config.secrets import HIDDEN, holds_secrets, is_secret, masked_arguments
from harness.errors import ConfigError, UsageError
from harness.run.files import broken_link, replace_file
from harness.run.launches import CONFIG, LAUNCH, LaunchStart, write_launch_file
from harness.run.paths import RunDir


def make_run(run_dir: RunDir) -> None:
    """Make the run's directory and its folders, where they are missing.

    Raises:
        UsageError: A file or a link is in the way, or the file system does not allow it.
    """
    try:
        run_dir.make_folders()
        _require_no_links(run_dir)
    except OSError as error:
        place = Path(error.filename or run_dir.root)
        problem = f"{place} {found}" if (found := broken_link(place)) else f"{error.strerror} ({place})"
        raise UsageError(
            f"cannot make the run directory {run_dir.root}: {problem}; choose another one with --run-dir"
        ) from None


def _require_no_links(run_dir: RunDir) -> None:
    """Return if no file to which a run appends is a link: somebody else's file could be behind it.

    Raises:
        UsageError: One is.
    """
    for path in (run_dir.metrics, run_dir.events, run_dir.order, run_dir.resume_failures):
        if path.is_symlink():
            raise UsageError(
                f"{path} is a link to {path.readlink()}, and a run writes only to files of its own. Move the file here "
                "in place of the link; a whole run directory, or a folder in it, may be a link"
            )


def open_launch(run_dir: RunDir, config: Config, start: LaunchStart, prepared: Path | None = None) -> Path:
    """Make the folder of the next launch, write its configuration, and return it. The caller holds the run's lock.

    The run's folders exist. Time, host, process and command are added to `start`. `prepared` is the folder, where
    `harness launch` made it before the job was queued.

    Raises:
        UsageError: The disk refuses, for instance because it is full.
    """
    try:
        return _open_launch(run_dir, config, start, prepared)
    except OSError as error:
        raise UsageError(
            f"cannot write to the run directory {run_dir.root}: {error.strerror or error}. Nothing was started; make "
            "room there, or choose another one with --run-dir"
        ) from None


def _open_launch(run_dir: RunDir, config: Config, start: LaunchStart, prepared: Path | None) -> Path:
    folder = prepared or run_dir.launch(run_dir.next_launch_number())
    folder.mkdir(parents=True, exist_ok=prepared is not None)
    write_config(folder / CONFIG, config)
    own = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "working_directory": str(Path.cwd()),
        "command": masked_arguments(sys.argv),
    }
    write_launch_file(folder / LAUNCH, start.model_copy(update=own))
    if not run_dir.config.exists():  # this file makes the directory a run for everybody else
        write_config(run_dir.config, config)
    return folder


def write_config(path: Path, config: Config) -> None:
    """Write a copy of a configuration, for its owner alone if it may hold secrets.

    It names commands that the watcher runs, so nobody else may change it, whatever the umask.

    Raises:
        OSError: The disk refuses; the old file is untouched.
    """
    replace_file(path, dump_config(config), mode=0o600 if holds_secrets(config) else 0o644)


def accept(run_dir: RunDir, config: Config) -> None:
    """Make the configuration of a launch that can begin the configuration of the run. The caller holds the run's lock.

    Raises:
        OSError: The disk refuses; the run's configuration is the earlier one.
    """
    write_config(run_dir.config, config)


def changes(run_dir: RunDir, config: Config) -> list[str]:
    """Return the fields in which a configuration differs from the run's. An unreadable one gives no differences."""
    try:
        before = load_config(run_dir.config)
    except ConfigError:  # the first launch, or one by a version with other fields
        return []
    old, now = _fields(before.model_dump(mode="json")), _fields(config.model_dump(mode="json"))
    return [
        f"{name}: {_shown(old, name)}, now {_shown(now, name)}"
        for name in [*old, *(name for name in now if name not in old)]
        if old.get(name) != now.get(name)
    ]


def hyperparameters(config: Config) -> dict[str, bool | float | str]:
    """Return what a run trains with, by the names of `--set`: no paths, and nothing about operation and output."""
    chosen = {"seed": config.run.seed} | config.model_dump(
        mode="json", include={"model", "parallel", "phases", "optimizer", "precision"}
    )
    found = _fields(chosen)
    return {name: value for name, value in found.items() if isinstance(value, bool | int | float | str)}


def _fields(value: object, place: str = "") -> dict[str, object]:
    """Return every number and text in nested mappings and lists by its path, such as `phases.0.seq_length`."""
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {place: value}
    return {
        name: field for key, item in items for name, field in _fields(item, f"{place}.{key}" if place else key).items()
    }


def _shown(fields: Mapping[str, object], name: str) -> str:
    if name not in fields:
        return "absent"
    return HIDDEN if is_secret(tuple(name.split("."))) else json.dumps(fields[name], ensure_ascii=False)
