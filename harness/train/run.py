"""Everything that one rank of a run holds while it trains."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import torch

from harness.checkpoint.saving.mcore import Saver
from harness.config.schema import Config
from harness.metrics.recorder import Recorder
from harness.optim.mcore import Optimizer
from harness.parallel.ranks import Ranks
from harness.plan.plan import PhasePlan, Plan
from harness.run.checkpoints.for_export import Belongings
from harness.run.checkpoints.store import CheckpointStore
from harness.run.event_base import StepEvent
from harness.run.heartbeats import Heartbeat
from harness.run.paths import RunDir
from harness.train.components.alarms import Alarms
from harness.train.components.desk import Desk
from harness.train.components.held_out import HeldOut
from harness.train.components.identity import config_hash
from harness.train.components.in_flight import InFlight
from harness.train.components.inbox import Inbox
from harness.train.components.mcore import Pipeline
from harness.train.components.nearby import Nearby, Snapshot
from harness.train.components.open_data import RunData
from harness.train.decide import Milestones


@dataclass(frozen=True, kw_only=True)
class Run:
    """The parts of a run, connected by `harness.train.start.opening`."""

    config: Config
    plan: Plan
    phase: PhasePlan
    settings: Config
    """The configuration as it is in that phase (`harness.config.phase_settings.in_phase`)."""
    run_dir: RunDir
    ranks: Ranks
    device: torch.device
    milestones: Milestones
    pipeline: Pipeline
    optimizer: Optimizer
    saver: Saver
    data: RunData
    store: CheckpointStore
    inbox: Inbox
    recorder: Recorder | None
    """Only global rank 0 has one."""
    desk: Desk
    """Records, answers commands and publishes; only global rank 0 hands it anything."""
    housekeeping: Desk
    """Marks and removes checkpoints, which may take minutes; only global rank 0 hands it anything."""
    alarms: Alarms
    """Only housekeeping looks at them."""
    heartbeat: Heartbeat
    in_flight: InFlight
    """The save that is under way, if any."""
    snapshots: deque[Snapshot] = field(default_factory=deque)
    """Earlier states in the memory of the host, the oldest first."""
    nearby: Nearby | None = None
    """Writes snapshots down for a start on the same nodes."""
    belongings: Belongings = field(default_factory=dict)
    """Files that each checkpoint holds for an export, on the writer (`harness.train.components.belongings`)."""

    def announce(self, text: str, event: StepEvent | None = None) -> None:
        """Record an event and show a text to people, on global rank 0."""
        if self.recorder is not None:
            if event is not None:
                self.recorder.event(event)
            self.recorder.message(text)

    def settle(self) -> None:
        """Wait until all that was handed over to be done in files is done, before somebody reads it or the run leaves.

        Raises:
            RunTakenOverError: Another process has taken the run over.
        """
        for desk in (self.desk, self.housekeeping, self.desk):  # they hand each other what is left to do
            desk.settle()

    @cached_property
    def config_hash(self) -> str:
        """Hash of the configuration, as checkpoints name it."""
        return config_hash(self.config)

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel names, by channel id."""
        return self.data.channel_names

    @property
    def held_out(self) -> HeldOut | None:
        """The held-out samples of the phase; None if it evaluates nothing."""
        return self.data.held_out[self.phase.index]
