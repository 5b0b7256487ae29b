"""Trains as far as files show it: lock, heartbeats, records, events, saves, orders. No torch, and no computing."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from checkpoint_samples import write_checkpoint

from harness.run.event_base import StepEvent
from harness.run.event_types import Exit, Resumed, Saved, SaveFailed
from harness.run.events import append_event
from harness.run.heartbeats import Activity, Heartbeat
from harness.run.lock import RunLock
from harness.run.paths import RunDir
from harness.run.records import StepRecord, last_records, to_json_line

STEP_PART_S = 0.05
LONG_S = 12.0
"""Time of an evaluation or a save: heartbeats are gathered every five seconds."""
FOR_EVER_S = 3600.0


class Trainer:
    """One rank. `at` says at which step of this launch what happens."""

    def __init__(self, run: Path, at: dict[str, Any], exit_code: int) -> None:
        self.run_dir = RunDir(run)
        self.at = at
        self.exit_code = exit_code
        self.rank = int(os.environ["RANK"])
        self.leave = self.run_dir.root / "leave"
        earlier = list(last_records(self.run_dir.metrics, 1)) if self.run_dir.metrics.exists() else []
        self.step = self.first = earlier[-1].step if earlier else 0

    def train(self) -> int:
        """Train until an order or the last step; return the exit code."""
        folder = Path(os.environ.get("HARNESS_HEARTBEATS") or self.run_dir.heartbeats)
        with ExitStack() as stack:
            if self.rank == 0:
                stack.enter_context(RunLock(self.run_dir, os.environ["SLURM_JOB_ID"]))
            beat = stack.enter_context(Heartbeat(folder / f"rank_{self.rank:05d}.json", self.rank, every_s=0.5))
            time.sleep(self.at.get("start_s", 1.0))
            self.tell(Resumed(attempt=0, step=self.step))
            while self.step < self.at.get("until_step", 1_000_000):
                self.step += 1
                self.do_step(beat)
                if self.is_ordered_to_leave():
                    self.save()
                    return 75
            reason = "as the test wants it"
            self.tell(Exit(attempt=0, step=self.step, exit_code=self.exit_code, reason=reason))
        return self.exit_code

    @property
    def done(self) -> int:
        """Steps of this launch."""
        return self.step - self.first

    def do_step(self, beat: Heartbeat) -> None:
        for activity in (Activity.DATA, Activity.FORWARD_BACKWARD, Activity.OPTIMIZER):
            beat.enter(activity, self.step)
            self.spend(activity, STEP_PART_S)
        if self.rank == 0:
            with self.run_dir.metrics.open("a") as file:
                file.write(to_json_line(self.record()))
        if self.done == self.at.get("evaluate_at"):
            beat.enter(Activity.EVALUATE, self.step)
            self.spend(Activity.EVALUATE, LONG_S)
        if self.done == self.at.get("save_at"):
            beat.enter(Activity.SAVE, self.step)
            self.spend(Activity.SAVE, LONG_S)
            self.save()
            self.tell(Saved(attempt=0, step=self.step, path="x", seconds=LONG_S))
        if self.done == self.at.get("save_fails_at"):
            self.tell(SaveFailed(attempt=0, step=self.step, reason="No space left on device"))
        if self.done == self.at.get("saves_again_at"):
            self.tell(Saved(attempt=0, step=self.step, path="x", seconds=0.1))

    def spend(self, activity: Activity, seconds: float) -> None:
        hangs = self.at.get("hang") == activity and self.done == self.at.get("hang_at")
        time.sleep(FOR_EVER_S if hangs else seconds)

    def record(self) -> StepRecord:
        start, height = self.at.get("spike", (10**9, 0.0))
        loss = (height if start <= self.done < start + 40 else 2.0) + 0.01 * ((7919 * self.step) % 13 - 6) / 6
        return StepRecord(
            attempt=0,
            step=self.step,
            time=time.time(),
            phase="main",
            consumed_samples=8 * self.step,
            consumed_tokens=256 * self.step,
            batch_hash=self.step,
            values={"train/lm_loss": loss, "train/lm_loss/zh": loss, "train/tokens/zh": 256.0},
        )

    def is_ordered_to_leave(self) -> bool:
        """Whether somebody wants it to stop. What else the watcher asks for, such as evidence, is passed over."""
        orders = sorted(self.run_dir.signals.glob("*.json")) if self.rank == 0 else []
        wanted = [order for order in orders if "save-and-stop" in order.read_text()]
        for order in orders:
            order.unlink()
        if wanted:
            self.leave.touch()
            time.sleep(0.5)  # for the others to see it
        return self.leave.exists()

    def save(self) -> None:
        if self.rank == 0:
            self.leave.unlink(missing_ok=True)
            folder = self.run_dir.checkpoint(self.step)
            if not folder.exists():
                write_checkpoint(folder, self.step)

    def tell(self, event: StepEvent) -> None:
        if self.rank == 0:
            append_event(self.run_dir.events, event)
