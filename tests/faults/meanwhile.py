"""What others do in a run's folder while it trains: odd names, links, deletions, files of another user.

What must hold, whatever it is: nothing of it is carried out, training goes on, and every step has the same losses.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

OTHER_USER = 65534
"""Id of the user `nobody`, who owns no run."""
Meanwhile = Callable[[random.Random, Path], None]
"""Called with the run directory. Undoes nothing."""


def _signal(run_dir: Path, name: bytes, content: bytes) -> None:
    with suppress(FileNotFoundError):
        (run_dir / "signals" / os.fsdecode(name)).write_bytes(content)


def a_name_that_is_not_utf8(draw: random.Random, run_dir: Path) -> None:
    _signal(run_dir, draw.randbytes(6).replace(b"/", b"_").replace(b"\0", b"_") + b"\xff\xfe.json", b'{"kind": "stop"')


def a_long_name(draw: random.Random, run_dir: Path) -> None:
    _signal(run_dir, b"x" * 245 + b".json", b"no command")


def a_thousand_commands(draw: random.Random, run_dir: Path) -> None:
    for number in range(1000):
        _signal(run_dir, f"many-{number:04d}.json".encode(), draw.randbytes(20))


def a_name_that_moves_the_cursor(draw: random.Random, run_dir: Path) -> None:
    _signal(run_dir, b"\x1b[2J\n.json", b'{"kind": "\x1b[2J"}')


def nested_json(draw: random.Random, run_dir: Path) -> None:
    _signal(run_dir, b"deep.json", b"[" * 60_000)


def a_pipe(draw: random.Random, run_dir: Path) -> None:
    with suppress(OSError):
        os.mkfifo(run_dir / "signals" / "pipe.json")


def a_link(draw: random.Random, run_dir: Path) -> None:
    with suppress(OSError):
        (run_dir / "signals" / "link.json").symlink_to("/etc/passwd")


def the_metrics_are_deleted(draw: random.Random, run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").unlink(missing_ok=True)


def the_events_are_deleted(draw: random.Random, run_dir: Path) -> None:
    (run_dir / "events.jsonl").unlink(missing_ok=True)


def the_lock_is_a_link(draw: random.Random, run_dir: Path) -> None:
    with suppress(OSError):
        (run_dir / "lock").unlink()
        (run_dir / "lock").symlink_to(run_dir / "elsewhere")


def the_heartbeats_are_deleted(draw: random.Random, run_dir: Path) -> None:
    for beat in (run_dir / "heartbeats").glob("*"):
        with suppress(OSError):
            beat.unlink()


def another_user_asks_to_kill(draw: random.Random, run_dir: Path) -> None:
    """A request to kill every launch of the run, of a user who owns none of it."""
    for launch in sorted((run_dir / "launches").glob("[0-9]*")):
        request = launch / "kill.json.of-another"
        request.write_text(json.dumps({"reason": "I want the nodes", "time": 1.7e9}))
        with suppress(PermissionError):
            os.chown(request, OTHER_USER, OTHER_USER)
            request.rename(launch / "kill.json")


def put_right(run_dir: Path) -> None:
    """Undo what a person would have to mend before the next start."""
    if (run_dir / "lock").is_symlink():
        (run_dir / "lock").unlink()
    for request in (run_dir / "launches").glob("*/kill.json"):
        request.unlink()


MEANWHILE: Mapping[str, Meanwhile] = {
    "a command whose name is not UTF-8": a_name_that_is_not_utf8,
    "a command with a name of 250 bytes": a_long_name,
    "a command whose name moves the cursor": a_name_that_moves_the_cursor,
    "a command of nested lists": nested_json,
    "a command that is a pipe": a_pipe,
    "a command that is a link": a_link,
    "1,000 commands that are none": a_thousand_commands,
    "metrics.jsonl deleted": the_metrics_are_deleted,
    "events.jsonl deleted": the_events_are_deleted,
    "the lock replaced by a link": the_lock_is_a_link,
    "heartbeats deleted": the_heartbeats_are_deleted,
}
"""Under way, in a trainer's folder."""
IN_LAUNCHES: Mapping[str, Meanwhile] = {"a request to kill of another user": another_user_asks_to_kill}
"""Under way, in the folders of launches, which launchers read."""
