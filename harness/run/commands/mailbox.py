"""The folder through which orders reach a running job, as global rank 0 sees it.

An order's file stays where it is until the order is acknowledged, so that a crash in between does not lose it. It then
moves to `done/<name>-<step>.json` with what came of it. What is no order moves to `rejected/`, next to a `.reason`.
Only regular files of the user who trains count, because whoever can write to the folder could stop the run otherwise.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from harness.run.commands.command import Order, OrderKind, UnreadableOrderError, is_order_name, parse_order
from harness.run.own_file import RefusedFileError, read_own_file
from harness.run.paths import RunDir

MAX_ORDER_BYTES = 64 * 1024
MAX_FILES_PER_POLL = 64
UNFINISHED_S = 2.0
"""How long a file may be no order before it is rejected: it may be in the middle of being written."""

_FOLDERS = ("done", "rejected")
_WRITING = ".tmp"


class _Untold(NamedTuple):
    """An acknowledgement that the disk did not take, or only half of it."""

    order: Order
    outcome: Mapping[str, object]
    done: Path | None
    """Where it goes, if it was begun: the order itself may lie there."""


class Mailbox:
    """Finds orders and acknowledges them. Only global rank 0 has one; its folder is made if missing."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_dir = run_dir
        self._clock = clock
        self._monotonic = monotonic
        self._known: set[tuple[str, int]] = set()
        """(name, inode) of files that need no second look: handed out, or impossible to move away."""
        self._unfinished: dict[tuple[str, int, int], float] = {}
        """When a file (name, inode, time of its last change) was first found to be no order."""
        self._in_hand: dict[str, tuple[str, int]] = {}
        """(name, inode) of orders that were handed out and not acknowledged, by the order's id."""
        self._acknowledged: dict[str, Path] = {}
        self._untold: dict[str, _Untold] = {}
        """Acknowledgements that the disk did not take, by the order's id."""
        self._num_orders = 0
        run_dir.signals_done.mkdir(parents=True, exist_ok=True)
        run_dir.signals_rejected.mkdir(parents=True, exist_ok=True)
        self._finish_acknowledgements()

    def poll(self) -> list[Order]:
        """The orders that arrived since the last poll, each handed out once; the plainly named ones first.

        Costs one look at the folder when it is empty. At most `MAX_FILES_PER_POLL` files are opened or moved; the rest
        waits for the next poll. A folder that cannot be read has no orders. An acknowledgement that the disk did not
        take is tried again.
        """
        for untold in list(self._untold.values()):
            self.acknowledge(untold.order, untold.outcome)
        try:
            with os.scandir(self._run_dir.signals) as entries:
                found = {(entry.name, entry.inode()) for entry in entries if not _is_passed_over(entry.name)}
        except OSError:
            return []
        self._known &= found
        fresh = sorted(found - self._known, key=lambda file: (file[0] not in tuple(OrderKind), file))
        return [order for file in fresh[:MAX_FILES_PER_POLL] if (order := self._take(*file)) is not None]

    def acknowledge(self, order: Order, outcome: Mapping[str, object]) -> Path | None:
        """Moves the order's file to `done/` and writes what came of it. A second call for the same order does nothing.

        Args:
            order: An order from `poll`, or one that came as a signal and has no file.
            outcome: For instance step, path and seconds. `step` becomes part of the file's name.

        Returns:
            The file in `done/`; None if the disk did not take it yet. The order is not handed out again in either case.
        """
        if order.id in self._acknowledged:
            return self._acknowledged[order.id]
        now = self._clock()
        fields = {"kind": order.kind, "reason": order.reason, "source": order.source, "time": round(now, 3), **outcome}
        step = outcome.get("step")
        suffix = f"{step:07d}" if isinstance(step, int) else f"{now:.3f}"
        begun = self._untold.get(order.id)
        done = begun.done if begun is not None else None
        try:
            if done is None:
                name = f"{order.source.removesuffix('.json')}-{suffix}"
                done = _free_path(self._run_dir.signals_done, name, ".json")
            written = Path(f"{done}{_WRITING}")
            written.write_text(json.dumps(fields, default=str) + "\n")
            file = self._run_dir.signals / order.source
            if (in_hand := self._in_hand.get(order.id)) and _inode(file) == in_hand[1]:
                # Moved before it is replaced: whenever we die, the order is either still there or done, never both.
                file.rename(done)
            written.rename(done)
        except OSError:
            self._untold[order.id] = _Untold(order, outcome, done)
            return None
        self._untold.pop(order.id, None)
        self._known.discard(self._in_hand.pop(order.id, ("", 0)))  # the next file of that name is another order
        self._acknowledged[order.id] = done
        return done

    def _take(self, name: str, inode: int) -> Order | None:
        """The order in a file; a file that is none is moved away, and one that vanished is forgotten."""
        try:
            file = read_own_file(self._run_dir.signals / name, max_bytes=MAX_ORDER_BYTES)
        except OSError:  # gone, or not to be read just now: the next poll finds it if it is there
            return None
        except RefusedFileError as error:
            self._reject(name, inode, str(error))
            return None
        self._num_orders += 1
        try:
            order = parse_order(name, file.content, f"{name}#{self._num_orders}", file.changed_ns)
        except UnreadableOrderError as error:
            if not is_order_name(name) or self._is_finished((name, inode, file.changed_ns)):
                self._reject(name, inode, str(error))
            return None
        self._known.add((name, inode))
        self._in_hand[order.id] = (name, inode)
        return order

    def _is_finished(self, file: tuple[str, int, int]) -> bool:
        """Whether a file that is no order has stayed unchanged for `UNFINISHED_S`."""
        now = self._monotonic()
        since = self._unfinished.setdefault(file, now)
        if now - since < UNFINISHED_S:
            return False
        del self._unfinished[file]
        return True

    def _reject(self, name: str, inode: int, reason: str) -> None:
        rejected = _free_path(self._run_dir.signals_rejected, os.fsdecode(os.fsencode(name)[:150]), "")
        try:
            Path(f"{rejected}.reason").write_text(reason + "\n", errors="backslashreplace")
            (self._run_dir.signals / name).rename(rejected)
        except OSError:  # not ours to move, or a full disk: it was looked at once, and lies there
            self._known.add((name, inode))

    def _finish_acknowledgements(self) -> None:
        """Completes what a crash interrupted between the renames of `acknowledge`; clears what came to nothing.

        What the disk refuses waits for the next start: acknowledgements are for people.
        """
        with suppress(OSError):
            for written in self._run_dir.signals_done.glob(f"*.json{_WRITING}"):
                done = written.with_suffix("")
                with suppress(OSError):
                    if done.exists():
                        written.rename(done)
                    else:
                        written.unlink()


def _is_passed_over(name: str) -> bool:
    """Whether a name in the folder is none of our business: our folders, hidden files, files being written."""
    return name in _FOLDERS or name.startswith(".") or name.endswith(_WRITING)


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except FileNotFoundError:
        return None


def _free_path(folder: Path, stem: str, suffix: str) -> Path:
    """The first of `<stem><suffix>`, `<stem>-2<suffix>` … that does not exist."""

    def candidates() -> Iterator[Path]:
        yield folder / f"{stem}{suffix}"
        number = 2
        while True:
            yield folder / f"{stem}-{number}{suffix}"
            number += 1

    return next(path for path in candidates() if not path.exists() and not path.is_symlink())
