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

import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from disturbed_runs import LAST_STEP, everybody, is_saving, one_rank, wait_for, wait_until_gone
from fault_report import Report, TrialId
from harms import HARMS, Harm
from judge import newest, sound_checkpoints
from meanwhile import IN_LAUNCHES, put_right
from process_runs import Command, Site, descendants, kill_all
from scenes import Line, line_of
from start_deaths import GONE_WITHIN_S, STAGES, VICTIMS, Start, is_free, kill_at, left_over
from surroundings import wrong_clock

from harness.errors import EXIT_FINISHED, EXIT_REQUEUE, EXIT_USAGE
from harness.run.lock import owner_of

LAYER = "launch"
KILL_ALL = "SIGKILL of all ranks and the launcher"


class Trial:
    """One run, disturbed as its seed says."""

    def __init__(self, site: Site, trial: TrialId, expected: Line, report: Report) -> None:
        self._site, self._trial, self._expected, self._report = site, trial, expected, report
        self._random = random.Random(str(trial))
        self._family = "no fault"

    def run(self, num_faults: int, wanted: str = "") -> None:
        """Throws so many faults, of the families that contain `wanted`, then lets the run end."""
        families = [family for family in sorted(FAULTS) if wanted in family]
        for _ in range(num_faults if families else 0):
            self._family = self._random.choice(families)
            before = self._newest_sound()
            if FAULTS[self._family](self):
                self._report.threw(LAYER, self._family)
            else:
                self._report.missed[LAYER, self._family] += 1
            self._check_resumed(before)
            if self._site.last_step() >= LAST_STEP:
                break
        before = self._newest_sound()
        code, text = self._start().finish()
        self._check_resumed(before)
        if code != EXIT_FINISHED:
            self._violated(f"the last start left with {code}: {text[-500:]}")
        elif (found := line_of(self._site.run_dir.root)) != self._expected:
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

    def kill_at_start(self, stage: str, victims: str) -> bool:
        """SIGKILL at a stage of the start: whoever is left ends within seconds, and holds the run no longer."""
        self._report.num_starts += 1
        start = Start.of(self._site)
        with start.command:
            known = kill_at(start, stage, VICTIMS[victims])
            if known is None:
                self._left(start.command)
                return False
            left = left_over(start.command, known)
            kill_all(left)
            if left:
                self._violated(f"{len(left)} processes are left {GONE_WITHIN_S:g} s after the deaths at: {stage}")
        if not is_free(self._site):
            self._violated(f"the run is held after the deaths at: {stage}")
        return True

    def meddle(self, name: str) -> bool:
        """Somebody does something in the folders of launches: training goes on."""
        first, ahead = self._site.last_step(), self._random.randint(1, 6)
        with self._start() as command:
            wait_for(command, lambda: self._site.last_step() >= first + ahead)
            if command.process.poll() is not None:
                return False
            IN_LAUNCHES[name](self._random, self._site.run_dir.root)
            code = command.process.wait(timeout=120)
            put_right(self._site.run_dir.root)
            if code != EXIT_FINISHED:
                self._violated(f"{name}: it left with {code}")
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

    def damage(self, harm: Harm) -> bool:
        """Harms a file of the newest checkpoint, if an older sound one is there to go back to."""
        sound = self._sound()
        if len(sound) < 2:
            if self.kill(everybody):  # a step on the way to a second checkpoint
                self._report.threw(LAYER, KILL_ALL)
            return False
        files = sorted(path for path in sound[0].iterdir() if path.is_file())
        harm(self._random, self._random.choice(files), files)
        return True

    def wrong_clock(self) -> bool:
        """A start whose clock is far from the last one's; then it is killed, with all its ranks."""
        environment = wrong_clock(self._random)
        if not environment:
            return False
        first, ahead = self._site.last_step(), self._random.randint(1, 9)
        with self._start(environment) as command:
            wait_for(command, lambda: self._site.last_step() >= first + ahead)
            if command.process.poll() is None:
                kill_all(everybody(command))
                command.process.wait(timeout=120)
            self._left(command)
        for left_behind in Path("/dev/shm").glob(f"*faketime_s*_{command.process.pid}"):
            left_behind.unlink()
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

    def _start(self, environment: Mapping[str, str] | None = None) -> Command:
        self._report.num_starts += 1
        return self._site.train(environment=environment, cold=True)

    def _left(self, command: Command) -> None:
        if command.process.returncode == EXIT_FINISHED and self._site.last_step() < LAST_STEP:
            self._violated(f"exit code 0 after step {self._site.last_step()}")

    def _sound(self) -> list[Path]:
        return [found.path for found in sound_checkpoints(self._site.run_dir.checkpoints)]

    def _newest_sound(self) -> tuple[int, set[str], int]:
        found = newest(self._site.run_dir.checkpoints)
        events = len(self._site.events("resumed"))
        return events, {str(found.path)} if found else set(), len(self._site.events("started"))

    def _check_resumed(self, before: tuple[int, set[str], int]) -> None:
        """The first start since then took the newest sound checkpoint of that time."""
        num_resumed, newest, num_started = before
        resumed = self._site.events("resumed")[num_resumed:]
        if newest and len(self._site.events("started")) > num_started:
            self._violated(f"started anew although {newest} is sound")
        if resumed and newest and resumed[0]["path"] not in newest:
            self._violated(f"resumed from {resumed[0]['path']}, the newest sound checkpoint was {newest}")

    def _violated(self, text: str) -> None:
        self._report.violated(self._trial, self._family, text)


FAULTS: dict[str, Callable[[Trial], bool]] = {
    KILL_ALL: lambda trial: trial.kill(everybody),
    "SIGKILL of rank 0": lambda trial: trial.kill(one_rank(0)),
    "SIGKILL of rank 1": lambda trial: trial.kill(one_rank(1)),
    "SIGKILL of the launcher": lambda trial: trial.kill(lambda command: [command.process.pid]),
    **{
        f"SIGKILL of {victims} at: {stage}": (
            lambda trial, stage=stage, victims=victims: trial.kill_at_start(stage, victims)
        )
        for stage in STAGES
        for victims in VICTIMS
    },
    **{f"meanwhile {name}": (lambda trial, name=name: trial.meddle(name)) for name in IN_LAUNCHES},
    "SIGTERM to the launcher": lambda trial: trial.stop_politely(),
    "a second process in the run directory": lambda trial: trial.second_process(),
    "a clock that is wrong": lambda trial: trial.wrong_clock(),
    **{f"{name} in a checkpoint": (lambda trial, harm=harm: trial.damage(harm)) for name, harm in HARMS.items()},
}
