"""The one save that may be under way while training goes on, and the cost of saves since the last record."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoint.writing import Writing
from harness.run import metric_names as names
from harness.run.checkpoints.manifest import Manifest
from harness.train.components.stages import Stages
from harness.train.state import TrainState


@dataclass(kw_only=True)
class Flight:
    """A save that has begun. First every rank writes, then the first one publishes."""

    state: TrainState
    partial: Path
    manifest: Manifest | None
    """Only on the writer; without the files and the norms."""
    writing: Writing
    stages: Stages
    """Since the save began."""
    publishing: Future[Path] | None = None
    """Only on the writer, after every rank has written."""
    is_written: bool = False


@dataclass(kw_only=True)
class InFlight:
    """The save under way, and its metrics. Changes at the same steps on every rank."""

    flight: Flight | None = None
    stall_s: float = 0.0
    """Seconds for which training waited for saves since the last record."""
    save_s: float = 0.0
    """Seconds that the last save took, if it ended since the last record."""
    num_failed_saves: int = 0
    """Number of failed saves since the last success."""
    snapshot_s: float = 0.0
    """Seconds for which training waited for snapshots since the last record."""

    def take_metrics(self) -> dict[str, float]:
        """Return the metrics for the record of the next step, and reset the times."""
        found = {names.SAVE_STALL_S: self.stall_s, names.SAVE_S: self.save_s, names.SNAPSHOT_S: self.snapshot_s}
        found[names.FAILED_SAVES] = self.num_failed_saves
        self.stall_s = self.save_s = self.snapshot_s = 0.0
        return {name: round(value, 4) for name, value in found.items() if value}

    def discard(self) -> None:
        """Stop the save at the end of a launch. A checkpoint that is being published is still published."""
        flight, self.flight = self.flight, None
        if flight is None:
            return
        flight.writing.discard()
        if flight.publishing is not None:
            flight.publishing.exception()  # waits: nothing may be renamed after the lock is given back
