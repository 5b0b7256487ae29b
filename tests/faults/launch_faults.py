"""Faults thrown at real training processes, one after the other, and what must hold after each of them.

A trial is one run to its last step. Again and again it is started, disturbed and left lying; then it is started once
more and ends. What must hold, whatever was thrown at it:

- a start goes on from the newest checkpoint whose files all have the hashes of its manifest, and from no other;
- exit code 0 means that the last step was done;
- at the end every step's loss, gradient norm and samples are, bit for bit, those of a run that nobody disturbed.

A trial is drawn from its seed alone: `Trial(site, seed)` again draws the same faults. When exactly a process dies also
depends on the machine.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from process_runs import Command, Site, descendants, kill_all

from harness.checkpoint.entries import Checkpoint, newest_first
from harness.checkpoint.store import CheckpointStore
from harness.checkpoint.verify import verify
from harness.errors import EXIT_FINISHED, EXIT_REQUEUE, EXIT_USAGE
from harness.signals.lock import owner_of

LAST_STEP = 24
SAVE_EVERY = 4
KILL_ALL = "SIGKILL of all ranks and the launcher"
Losses = dict[int, tuple[float, float]]


def campaign_site(root: Path, *, async_save: bool = False) -> Site:
    """Two ranks that share a tiny model, and save often."""
    site = Site(root)
    site.config["parallel"] = {"tensor_model_parallel_size": 2}
    site.config["checkpoint"] = {"save_every_steps": SAVE_EVERY, "async_save": async_save}
    site.config["run"]["stop_at_step"] = LAST_STEP
    return site


@dataclass
class Report:
    """What was thrown, and what broke."""

    injections: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    num_trials: int = 0
    num_starts: int = 0

    def __str__(self) -> str:
        lines = [f"{self.num_trials} trials, {self.num_starts} starts, {self.injections.total()} injections"]
        lines += [f"  {family}: {count}" for family, count in sorted(self.injections.items())]
        lines += [f"{len(self.violations)} violations", *(f"  {text}" for text in self.violations)]
        return "\n".join(lines)


class Trial:
    """One run, disturbed as its seed says."""

    def __init__(self, site: Site, seed: str, expected: Losses, report: Report) -> None:
        self._site, self._seed, self._expected, self._report = site, seed, expected, report
        self._random = random.Random(seed)

    def run(self, num_faults: int) -> None:
        for _ in range(num_faults):
            family = self._random.choice(sorted(FAULTS))
            before = self._newest_sound()
            if FAULTS[family](self):
                self._report.injections[family] += 1
            self._check_resumed(before)
            if self._site.last_step() >= LAST_STEP:
                break
        before = self._newest_sound()
        code, text = self._start().finish()
        self._check_resumed(before)
        if code != EXIT_FINISHED:
            self._violated(f"the last start left with {code}: {text[-500:]}")
        elif self._site.losses() != self._expected:
            found = self._site.losses()
            wrong = [step for step, value in self._expected.items() if found.get(step) != value]
            self._violated(f"steps {wrong[:5]} are not those of an undisturbed run")
        self._report.num_trials += 1

    def kill(self, victims: Callable[[Command], list[int]]) -> bool:
        """SIGKILL at a random moment: while starting, in a step, or in a save."""
        moment = self._random.choice(("start", "step", "step", "save"))
        wait_s, ahead = self._random.uniform(0, 0.4), self._random.randint(1, 6)
        first = self._site.last_step()
        with self._start() as command:
            if moment == "start":
                time.sleep(self._random.uniform(0.5, 6.0))
            else:
                reached = (
                    (lambda: is_saving(self._site))
                    if moment == "save"
                    else (lambda: self._site.last_step() >= first + ahead)
                )
                wait_for(command, reached)
                time.sleep(wait_s)
            if command.process.poll() is not None:
                self._left(command)
                return False
            kill_all(victims(command))
            if command.process.poll() is None:
                command.process.wait(timeout=120)
            wait_until_gone(self._site)
            return True

    def second_process(self) -> bool:
        """Another trainer in the same run directory is refused and disturbs nothing; then the first is killed."""
        with self._start() as command:
            wait_for(command, lambda: owner_of(self._site.run_dir) is not None)
            code, text = self._start().finish()
            if command.process.poll() is None and code != EXIT_USAGE:
                self._violated(f"a second process in the run directory left with {code}: {text[-300:]}")
            kill_all([command.process.pid, *descendants(command.process.pid)])
            command.process.wait(timeout=120)
        return True

    def damage(self, harm: Callable[[random.Random, Path, list[Path]], None]) -> bool:
        """Harms a file of the newest checkpoint, if an older sound one is there to go back to."""
        sound = self._sound()
        if len(sound) < 2:
            if self.kill(everybody):  # a step on the way to a second checkpoint
                self._report.injections[KILL_ALL] += 1
            return False
        files = sorted(path for path in sound[0].path.iterdir() if path.is_file())
        harm(self._random, self._random.choice(files), files)
        return True

    def stop_politely(self) -> bool:
        """SIGTERM to the launcher: the run saves and asks to be started again."""
        with self._start() as command:
            first = self._site.last_step()
            wait_for(command, lambda: self._site.last_step() > first)
            if command.process.poll() is not None:
                return False
            command.process.send_signal(signal.SIGTERM)
            code = command.process.wait(timeout=120)
            if code not in (EXIT_REQUEUE, EXIT_FINISHED, -signal.SIGTERM, 128 + signal.SIGTERM):
                self._violated(f"a polite stop left with {code}")
        return True

    def _start(self) -> Command:
        self._report.num_starts += 1
        return self._site.train()

    def _left(self, command: Command) -> None:
        if command.process.returncode == EXIT_FINISHED and self._site.last_step() < LAST_STEP:
            self._violated(f"exit code 0 after step {self._site.last_step()}")

    def _sound(self) -> list[Checkpoint]:
        entries = newest_first(CheckpointStore(self._site.run_dir).list())
        return [entry for entry in entries if isinstance(entry, Checkpoint) and not verify(entry.path, deep=True)]

    def _newest_sound(self) -> tuple[int, set[str], int]:
        sound = self._sound()
        events = len(self._site.events("resumed"))
        return events, {str(sound[0].path)} if sound else set(), len(self._site.events("started"))

    def _check_resumed(self, before: tuple[int, set[str], int]) -> None:
        """The first start since then took the newest sound checkpoint of that time."""
        num_resumed, newest, num_started = before
        resumed = self._site.events("resumed")[num_resumed:]
        if newest and len(self._site.events("started")) > num_started:
            self._violated(f"started anew although {newest} is sound")
        if resumed and newest and resumed[0]["path"] not in newest:
            self._violated(f"resumed from {resumed[0]['path']}, the newest sound checkpoint was {newest}")

    def _violated(self, text: str) -> None:
        self._report.violations.append(f"seed {self._seed}: {text}")


def wait_for(command: Command, condition: Callable[[], bool], patience_s: float = 180.0) -> None:
    """Until something holds or the command has left."""
    deadline = time.monotonic() + patience_s
    while not condition() and command.process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)


def is_saving(site: Site) -> bool:
    folder = site.run_dir.checkpoints
    return folder.is_dir() and any(name.endswith(".partial") for name in site.checkpoints())


def wait_until_gone(site: Site, patience_s: float = 60.0) -> None:
    """Until nobody holds the run's lock: workers whose launcher was killed save and leave by themselves."""
    deadline = time.monotonic() + patience_s
    while owner_of(site.run_dir) is not None and time.monotonic() < deadline:
        time.sleep(0.05)


def everybody(command: Command) -> list[int]:
    return [command.process.pid, *descendants(command.process.pid)]


def one_rank(number: int) -> Callable[[Command], list[int]]:
    def victims(command: Command) -> list[int]:
        workers = command.workers()
        return [workers[number]] if number in workers else everybody(command)

    return victims


def flip_a_bit(draw: random.Random, file: Path, _: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    file.write_bytes(content)


def zero_a_sector(draw: random.Random, file: Path, _: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    start = draw.randrange(0, len(content), 512)
    if not any(content[start : start + 512]):
        start = 0
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    file.write_bytes(content)


def truncate(draw: random.Random, file: Path, _: list[Path]) -> None:
    os.truncate(file, draw.randrange(file.stat().st_size))


def delete(_: random.Random, file: Path, __: list[Path]) -> None:
    file.unlink()


def swap(draw: random.Random, file: Path, files: list[Path]) -> None:
    other = draw.choice([path for path in files if path != file])
    aside = file.with_name("aside")
    shutil.move(file, aside)
    shutil.move(other, file)
    shutil.move(aside, other)


FAULTS: dict[str, Callable[[Trial], bool]] = {
    KILL_ALL: lambda trial: trial.kill(everybody),
    "SIGKILL of rank 0": lambda trial: trial.kill(one_rank(0)),
    "SIGKILL of rank 1": lambda trial: trial.kill(one_rank(1)),
    "SIGKILL of the launcher": lambda trial: trial.kill(lambda command: [command.process.pid]),
    "SIGTERM to the launcher": lambda trial: trial.stop_politely(),
    "a second process in the run directory": lambda trial: trial.second_process(),
    "a flipped bit": lambda trial: trial.damage(flip_a_bit),
    "a zeroed sector": lambda trial: trial.damage(zero_a_sector),
    "a truncated file": lambda trial: trial.damage(truncate),
    "a deleted file": lambda trial: trial.damage(delete),
    "two files swapped": lambda trial: trial.damage(swap),
}
