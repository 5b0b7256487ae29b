"""Runs of a tiny model as their user starts them: `harness train` in a process of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import yaml
from warm import WORKER_NAME, WarmCommand

from data_prep.channels.indexed_writer import PartWriter, token_dtype
from harness.run.commands.giving import acknowledgements
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records

VOCAB_SIZE = 256
SEQ_LENGTH = 16
GLOBAL_BATCH_SIZE = 4
PATIENCE_S = 180.0
"""No command of these tests takes so long, even on a busy machine; what does, hangs."""
HARNESS = (sys.executable, "-m", "harness.cli")
REPOSITORY = Path(__file__).parents[2]


def write_channel(folder: Path, *, seed: int = 0, num_documents: int = 60, first_id: int = 0) -> Path:
    """A channel of random documents: one part with ids from `first_id` up to the vocabulary."""
    random = np.random.RandomState(seed)  # its numbers never change, unlike those of numpy's newer generators
    folder.mkdir(parents=True)
    writer = PartWriter(folder, 0, token_dtype(VOCAB_SIZE))
    for _ in range(num_documents):
        writer.add_document(random.randint(first_id, VOCAB_SIZE, size=random.randint(20, 60)).tolist())
    writer.finish()
    return folder


def configuration(data: Path) -> dict[str, Any]:
    """A run of 200 steps of a model with 2 layers of width 32, on two channels made by `write_channel`."""
    return {
        "run": {"name": "small"},
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "ffn_hidden_size": 64,
            "vocab_size": VOCAB_SIZE,
        },
        "data": {"channels": {"en": {"path": str(data / "en")}, "code": {"path": str(data / "code")}}},
        "phases": [
            {
                "name": "main",
                "train_steps": 200,
                "seq_length": SEQ_LENGTH,
                "global_batch_size": GLOBAL_BATCH_SIZE,
                "blend": {"en": 3, "code": 1},
            }
        ],
        "optimizer": {"learning_rate": 1e-2},
        "precision": {"dtype": "fp32"},
        "logging": {"tensorboard": False},
    }


@dataclass
class Site:
    """A folder with data, a configuration and a run directory."""

    root: Path
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for seed, name in enumerate(("en", "code")):
            write_channel(self.root / "data" / name, seed=seed)
        self.config = configuration(self.root / "data")

    @property
    def run_dir(self) -> RunDir:
        return RunDir(self.root / "run")

    def train(
        self,
        *arguments: str,
        run_dir: Path | None = None,
        terminal: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
        cold: bool = False,
    ) -> Command:
        """Starts `harness train` in a folder, with its output going to a terminal if one is given.

        Cold: each process is a new interpreter. Else it is a fork (`warm.py`).
        """
        config = self.root / "config.yaml"
        config.write_text(yaml.safe_dump(self.config, sort_keys=False))
        command = ["train", str(config), "--run-dir", str(run_dir or self.run_dir.root), *arguments]
        return Command(command, terminal, environment, folder, cold=cold)

    def enlarge_channel(self, name: str, num_documents: int) -> None:
        """Makes a channel anew, with more documents."""
        shutil.rmtree(self.root / "data" / name)
        write_channel(self.root / "data" / name, num_documents=num_documents)

    def losses(self, run_dir: RunDir | None = None) -> dict[int, tuple[float, float]]:
        """(loss, gradient norm) of every step that counts."""
        return {record.step: loss_and_norm(record) for record in self.records(run_dir)}

    def records(self, run_dir: RunDir | None = None) -> list[StepRecord]:
        path = (run_dir or self.run_dir).metrics
        return list(read_records(path)) if path.exists() else []

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        path = self.run_dir.events
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for line in lines if kind in (None, (event := json.loads(line))["kind"])]

    def acknowledgements(self) -> list[dict[str, Any]]:
        """What is written in `signals/done/`, by file name."""
        return list(acknowledgements(self.run_dir))

    def checkpoints(self) -> list[str]:
        """Names in the folder of checkpoints, left-overs included."""
        return sorted(path.name for path in self.run_dir.checkpoints.iterdir())

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until something holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"nothing within {PATIENCE_S:g} s"
            time.sleep(0.01)

    def last_step(self) -> int:
        """The last step recorded so far, 0 before the first."""
        return max((record.step for record in self.records()), default=0)


def loss_and_norm(record: StepRecord) -> tuple[float, float]:
    return record.values["train/lm_loss"], record.values["optim/grad_norm"]


class Command:
    """A `harness` command that runs in the background; left over, it and all its descendants are killed.

    It is a fork of a process that has loaded torch and Megatron; or what a shell would start, where it is cold, at a
    terminal, or another version of harness is on its path.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        terminal: int | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
        *,
        cold: bool = False,
    ) -> None:
        own = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "xterm", **(environment or {})}
        self.process: subprocess.Popen[bytes] | WarmCommand
        if not cold and terminal is None and "PYTHONPATH" not in (environment or {}):
            self.process = WarmCommand(arguments, folder, own)
            return
        self.process = subprocess.Popen(
            [*HARNESS, *arguments],
            cwd=folder,
            env=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if terminal is None else terminal,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kill_all([self.process.pid, *descendants(self.process.pid)])
        self.process.communicate()

    def finish(self) -> tuple[int, str]:
        """Exit code and everything that was written to the terminal."""
        with self:
            output, _ = self.process.communicate(timeout=PATIENCE_S)
            return self.process.returncode, output.decode()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Waits until something holds while the command runs."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None:
                raise AssertionError(f"the command left with {self.process.returncode}:\n{self.finish()[1]}")
            assert time.monotonic() < deadline, f"nothing within {PATIENCE_S:g} s"
            time.sleep(0.01)

    def workers(self) -> dict[int, int]:
        """Process ids of the workers, by rank."""
        found = {}
        for pid in children(self.process.pid):
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text()
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                ranks = [entry[5:] for entry in environment if entry.startswith(b"RANK=")]
                if name.startswith(WORKER_NAME):
                    found[int(name.removeprefix(WORKER_NAME))] = pid
                elif ranks:
                    found[int(ranks[0])] = pid
        return found


def kill_when(command: Command, condition: Callable[[], bool], victims: Callable[[Command], list[int]]) -> str:
    """Kills processes of a command while something holds, and returns what was written to the terminal.

    They are stopped first, and looked at again: on a busy machine it may be over by the time that they are killed.
    """
    with command:
        while True:
            command.wait_until(condition)
            pids = victims(command)
            signal_all(pids, signal.SIGSTOP)
            if condition():
                break
            signal_all(pids, signal.SIGCONT)
        kill_all(pids)
        return command.finish()[1]


def processor_seconds(pid: int) -> float:
    """Processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    text = ""
    with suppress(OSError):
        text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(word) for word in text.split()]


def descendants(pid: int) -> Iterator[int]:
    for child in children(pid):
        yield child
        yield from descendants(child)


def kill_all(pids: Sequence[int]) -> None:
    signal_all(pids, signal.SIGKILL)


def signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
