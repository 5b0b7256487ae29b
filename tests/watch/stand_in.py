"""A stand-in for a training run: it writes what a trainer writes, and carries out commands as a trainer does."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from checkpoint_samples import write_checkpoint

from harness.alerts.alert import RunName
from harness.alerts.book import Rules
from harness.alerts.desk import AlertDesk
from harness.config.load import load_config
from harness.config.schema import Config
from harness.run.checkpoints.manifest import MANIFEST_NAME, read_manifest, write_manifest
from harness.run.commands import requests
from harness.run.commands.command import Command
from harness.run.commands.kinds import CommandKind
from harness.run.commands.mailbox import Mailbox
from harness.run.files import append_lines
from harness.run.lock import RunLock
from harness.run.paths import RunDir, step_name
from harness.run.records import StepRecord, to_json_line
from harness.watch.announcer import Outputs, WatcherEvents
from harness.watch.saved_state import WatchState, load_state, save_state
from harness.watch.watcher import Watcher

BATCH = 8
ONSET = 301
"""First step with dirty samples."""
SAVE_EVERY = 20

CONFIG: dict[str, Any] = {
    "run": {"name": "stand-in"},
    "model": {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "ffn_hidden_size": 64, "vocab_size": 256},
    "data": {"channels": {"en": {"path": "en"}, "code": {"path": "code"}}},
    "phases": [
        {
            "name": "main",
            "train_steps": 2000,
            "seq_length": 16,
            "global_batch_size": BATCH,
            "blend": {"en": 1, "code": 1},
        }
    ],
    "optimizer": {"learning_rate": 1e-3},
    "watch": {
        "action": "rollback",
        "rollback_margin_steps": 40,
        "skip_steps": 80,
        "most_skip_steps": 80,
        "skip_lead_steps": 5,
        "verify_steps": 0,
        "alert_every_s": 0,
    },
}


def noise(number: int) -> float:
    """Ordinary noise, the same for a step whenever it is done: about 0.02 nats."""
    return 0.02 * (math.sin(12.9898 * number) + math.sin(78.233 * number + 1))


@dataclass
class StandIn:
    """A run in which the samples of the steps `dirty` lose `height` nats more than others."""

    run_dir: RunDir
    dirty: range = range(0)
    height: float = 3.0
    changes: dict[str, Any] = field(default_factory=dict)
    looks_dirty: bool = True
    step: int = 0
    attempt: int = 0
    skipped: tuple[int, int] = (0, 0)
    carried_out: list[Command] = field(default_factory=list)
    exit_code: int | None = None
    begun: float = field(default_factory=time.time)
    """Time of step 0, in seconds since 1970; each step takes a second."""

    def __post_init__(self) -> None:
        values = {**CONFIG, "watch": {**CONFIG["watch"], **self.changes}}
        self.run_dir.make_folders()
        self.run_dir.watch.mkdir()
        self.run_dir.config.write_text(yaml.safe_dump(values))
        launch = self.run_dir.launch(1) / "launch.json"
        launch.parent.mkdir(exist_ok=True)
        launch.write_text("{}")
        os.utime(launch, (1, 1))  # as old as the events
        self.lock = RunLock(self.run_dir)
        self.event("started")
        self.box = Mailbox(self.run_dir)

    @property
    def config(self) -> Config:
        return load_config(self.run_dir.config)

    def event(self, kind: str, **fields: object) -> None:
        event = {"time": 1.0, "kind": kind, "attempt": self.attempt, "step": self.step, **fields}
        append_lines(self.run_dir.events, [json.dumps(event)])
        if kind == "exit":
            self.lock.release()
        elif self.lock.descriptor is None:
            self.lock.acquire()

    def loss_of_sample(self, step: int) -> float:
        source = step if step < self.skipped[0] else step + self.skipped[1] - self.skipped[0]
        return 2.0 + noise(source) + (self.height if source in self.dirty else 0.0)

    def record(self) -> StepRecord:
        code, en = self.loss_of_sample(self.step), 2.5 + noise(self.step + 7777)
        return StepRecord(
            attempt=self.attempt,
            step=self.step,
            time=self.begun + self.step,
            phase="main",
            consumed_samples=self.step * BATCH,
            consumed_tokens=self.step * BATCH * 16,
            batch_hash=self.step,
            values={
                "train/lm_loss": (code + en) / 2,
                "train/lm_loss/code": code,
                "train/lm_loss/en": en,
                "train/tokens/code": 64.0,
                "train/tokens/en": 64.0,
                "optim/grad_norm": 1.0 + noise(self.step + 99),
                "optim/learning_rate": 1e-3,
            },
        )

    def train(self, num_steps: int) -> None:
        for _ in range(num_steps):
            if self.exit_code is not None:
                return
            self.step += 1
            with self.run_dir.metrics.open("a") as file:
                file.write(to_json_line(self.record()))
            if self.step % SAVE_EVERY == 0:
                self.save()
            for command in self.box.poll():
                self.carry_out(command)

    def save(self) -> None:
        write_checkpoint(self.run_dir.checkpoint(self.step), self.step, attempt=self.attempt)

    def healths(self) -> dict[int, str]:
        found = [json.loads(path.read_text()) for path in self.run_dir.checkpoints.glob(f"*/{MANIFEST_NAME}")]
        return {manifest["step"]: manifest["health"] for manifest in sorted(found, key=lambda each: each["step"])}

    def carry_out(self, command: Command) -> None:
        self.carried_out.append(command)
        request = command.request
        if isinstance(request, requests.Evidence):
            path = self.run_dir.evidence(request.steps[1])
            steps = range(request.steps[0], request.steps[1] + 1)
            path.write_text("".join(self.line_of_evidence(step) for step in steps))
            self.event("evidence", steps=list(request.steps), path=str(path), order=command.source)
        elif isinstance(request, requests.Mark):
            for name in request.checkpoints:
                manifest = self.run_dir.checkpoints / name / MANIFEST_NAME
                if not manifest.exists():  # abandoned since
                    continue
                known = read_manifest(manifest.parent)
                write_manifest(manifest.parent, known.model_copy(update={"health": request.health}))
        elif isinstance(request, requests.Rollback):
            assert request.to_step is not None
            first, last = request.skip_steps or (0, -1)
            before, self.step, self.skipped = self.step, request.to_step, (first, last + 1)
            self.attempt += 1
            for path in self.run_dir.checkpoints.glob("step_*"):
                if path.name > step_name(self.step):
                    (path / MANIFEST_NAME).unlink()
            self.event("rollback", order=command.source, reason=command.reason, from_step=before)
        elif command.kind is CommandKind.STOP_FOR_PERSON:
            self.exit_code = 76
            self.event("exit", exit_code=76, reason=command.reason)
        self.box.acknowledge(command, {"step": self.step})

    def line_of_evidence(self, step: int) -> str:
        fields = {
            "step": step,
            "position": step * BATCH,
            "loss": self.loss_of_sample(step),
            "tokens": 64,
            "channel": "code",
            "part": "part-00003",
            "epoch": 0,
            "sample": step,
            "documents": [1000 + step],
            "provenance": [f"raw/code/0.jsonl.gz:{2000 + step}  https://example.org/{step}"],
            "most_common_token_share": 0.9 if self.looks_dirty and step in self.dirty else 0.1,
            "repeated_share": 0.0,
        }
        return json.dumps(fields) + "\n"

    def commands(self, kind: CommandKind) -> list[Command]:
        return [command for command in self.carried_out if command.kind is kind]

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = self.run_dir.events.read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["kind"] == kind]


def watcher(run: StandIn, *, may_command: bool = True, told: list[str] | None = None) -> Watcher:
    """A watcher that goes on from what is on disk, as after a start."""
    state = load_state(run.run_dir.watch / "state.json")
    outputs = Outputs(
        events=WatcherEvents(run.run_dir.events),
        alerts=AlertDesk(
            run_dir=run.run_dir,
            run=RunName(name="stand-in", folder=str(run.run_dir.root)),
            rules=Rules(every_s=0.0),
        ),
        show=(told if told is not None else []).append,
        may_command=may_command,
    )
    return Watcher(run.run_dir, run.config, state or WatchState(), outputs, is_anew=state is None)


def keep(run: StandIn, watching: Watcher) -> None:
    save_state(run.run_dir.watch / "state.json", watching.state)


def run_dir_in(folder: Path) -> RunDir:
    return RunDir(folder / "run")
