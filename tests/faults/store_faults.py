"""The store of checkpoints, disturbed at every disk call of everything it does, on checkpoints of a real run.

A process that only knows the store forks in a millisecond, so this layer goes through all calls and all faults; that
equal files are equal training is for the layer of the trainer to show. What must hold after every fault:

- the newest sound checkpoint is the one from before the operation or the one from after it, bit for bit, and the
  product chooses the same one as the judge, who shares no code with it;
- nothing that is named like a checkpoint is less than one;
- an operation that did not do its work said so; the next start cleans up, and the next save is chosen.

Damage must be found whatever it is: a harmed checkpoint is passed over, by name, for the one before it.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from disk_faults import Call, killed_at, recorded, traced
from fault_report import Report, TrialId
from harms import HARMS
from judge import is_sound, newest, sound_checkpoints, unsound
from power_cuts import DiskModel

from harness.checkpoint.objections import objection_to
from harness.errors import HarnessError
from harness.run.checkpoints.entries import Checkpoint
from harness.run.checkpoints.manifest import Manifest, parse_manifest
from harness.run.checkpoints.retention import RetentionPolicy, to_delete
from harness.run.checkpoints.store import CheckpointStore
from harness.run.paths import RunDir

LAYER = "store"
CHUNK_BYTES = 32 * 1024
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE)
STEPS = (2, 4, 6, 8)
HEALTHS = ("clean", "suspect")
Operation = Callable[[CheckpointStore], object]


@dataclass(frozen=True)
class Material:
    """A run of which steps 2 and 4 are saved, and the checkpoints of all its steps: the right bytes of each."""

    run: Path
    checkpoints: dict[int, Path]

    def manifest(self, step: int, **changes: object) -> Manifest:
        found = parse_manifest((self.checkpoints[step] / "manifest.json").read_bytes())
        return found.model_copy(update={"files": {}, **changes})

    def is_right(self, folder: Path, step: int) -> bool:
        """Whether a folder holds the files of a step, bit for bit."""
        right = self.checkpoints[step]
        names = {path.name for path in right.iterdir()} - {"manifest.json"}
        return all((folder / name).read_bytes() == (right / name).read_bytes() for name in names)

    def write(self, folder: Path, step: int) -> None:
        """Writes the files of a step by plain system calls, as the trainer's writers would."""
        for path in sorted(self.checkpoints[step].iterdir()):
            if path.name == "manifest.json":
                continue
            content = memoryview(path.read_bytes())
            descriptor = os.open(folder / path.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                while content:
                    content = content[os.write(descriptor, content[:CHUNK_BYTES]) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@dataclass(frozen=True)
class Scenario:
    """An operation, and the (step, attempt) of the newest checkpoint before and after it."""

    name: str
    operation: Operation
    before: tuple[int, int]
    after: tuple[int, int]
    prepare: Operation = lambda store: None


def scenarios(material: Material) -> list[Scenario]:
    save = partial(_save, material)
    return [
        Scenario("save", lambda store: save(store, 6, 0), (4, 0), (6, 0)),
        Scenario("save over what a crash left", lambda store: save(store, 6, 0), (4, 0), (6, 0), _leave_remains),
        Scenario("save a step again", lambda store: save(store, 4, 1), (4, 0), (4, 1)),
        Scenario("prune", _prune, (4, 0), (4, 0)),
        Scenario("prune after a save", lambda store: (save(store, 6, 0), _prune(store)), (4, 0), (6, 0)),
        Scenario("rollback", lambda store: (save(store, 2, 1), _abandon(store, 4)), (4, 0), (2, 1)),
        Scenario("release", _release, (4, 0), (4, 0)),
        Scenario("clean up", CheckpointStore.clean_partials, (4, 0), (4, 0), _leave_remains),
    ]


def _save(material: Material, store: CheckpointStore, step: int, attempt: int) -> None:
    folder = store.begin(step)
    material.write(folder, step)
    store.publish(folder, material.manifest(step, attempt=attempt))


def _prune(store: CheckpointStore) -> None:
    for entry in to_delete(store.list(), RetentionPolicy(keep_last=1)):
        store.remove(entry)


def _abandon(store: CheckpointStore, step: int) -> None:
    for entry in store.list():
        if entry.step == step and isinstance(entry, Checkpoint):
            store.amend(entry, health="abandoned")


def _release(store: CheckpointStore) -> None:
    for entry in store.list():
        if isinstance(entry, Checkpoint):
            store.amend(entry, health="clean", pinned=True)


def _leave_remains(store: CheckpointStore) -> None:
    folder = store.run_dir.checkpoints
    shutil.copytree(folder / "step_0000002", folder / "step_0000006.partial")
    shutil.copytree(folder / "step_0000002", folder / "step_0000001.removed")


class StoreTrials:
    """Faults at disk calls of one process; every trial is a function of seed and number."""

    def __init__(self, material: Material, place: Path, report: Report, wanted: str = "") -> None:
        """With `wanted` only families are thrown whose name contains it."""
        self.material, self._place, self._report, self._wanted = material, place, report, wanted
        self._scenarios = scenarios(material)
        self._templates: dict[str, Path] = {}
        self._calls: dict[str, list[Call]] = {}
        self._numbers = count()

    def play(self, trial: TrialId) -> None:
        """Every third trial is damage of all kinds; the others are all faults at one call, and each has its turn."""
        draw = random.Random(str(trial))
        self._report.num_trials += 1
        if trial.number % 3 == 2:
            self._damage(trial, draw)
            return
        turn = trial.number - trial.number // 3
        scenario = self._scenarios[turn % len(self._scenarios)]
        calls = self._calls_of(scenario)
        number = 1 + (turn // len(self._scenarios)) % len(calls)
        call = calls[number - 1]
        self._kill(trial, scenario, number, "before", draw)
        if call.name == "write":
            self._kill(trial, scenario, number, "within", draw)
            self._lie(trial, scenario, number)
        for error in ERRORS:
            self._fail(trial, scenario, number, error, sticky=draw.random() < 0.5)
        self._cut_power(trial, scenario, number, draw)

    def _kill(self, trial: TrialId, scenario: Scenario, number: int, when: Any, draw: random.Random) -> None:
        family = f"SIGKILL {when} a disk call of {scenario.name}"
        if self._wanted not in family:
            return
        store = self._fresh(scenario)
        if killed_at(number, when, lambda: scenario.operation(store)) != -9:
            self._report.missed[LAYER, family] += 1
            return
        self._report.threw(LAYER, family)
        self._check(trial, family, store, scenario)
        if draw.random() < 0.5:
            family = "SIGKILL again while cleaning up and saving"
            again = draw.randrange(1, 40)
            if killed_at(again, "before", lambda: self._recover(store)) == -9:
                self._report.threw(LAYER, family)
                self._check(trial, family, store, scenario, more=(8, 5))
        self._check_recovers(trial, family, store)

    def _fail(self, trial: TrialId, scenario: Scenario, number: int, error: int, *, sticky: bool) -> None:
        family = f"{errno.errorcode[error]} {'from then on ' if sticky else ''}at a disk call"
        if self._wanted not in family:
            return
        store = self._fresh(scenario)

        def act(count: int, call: Call, perform: Callable[[], object]) -> object:
            fails = count == number or (sticky and count > number and call.name != "close")
            if fails and call.name == "close":
                perform()
            if fails:
                raise OSError(error, os.strerror(error), call.path)
            return perform()

        said = _said(act, lambda: scenario.operation(store))
        self._report.threw(LAYER, family)
        self._check(trial, family, store, scenario, done=said is None)
        self._check_recovers(trial, family, store)

    def _lie(self, trial: TrialId, scenario: Scenario, number: int) -> None:
        """A write of the product that the disk says it did, and did not; what others wrote is for their layer."""
        family = "a write that is lost"
        if self._wanted not in family:
            return
        store = self._fresh(scenario)

        def act(count: int, call: Call, perform: Callable[[], object]) -> object:
            return len(call.data) if count == number else perform()

        if "manifest.json" not in self._calls_of(scenario)[number - 1].path:
            return
        said = _said(act, lambda: scenario.operation(store))
        self._report.threw(LAYER, family)
        self._check(trial, family, store, scenario, done=said is None)
        self._check_recovers(trial, family, store)

    def _cut_power(self, trial: TrialId, scenario: Scenario, number: int, draw: random.Random) -> None:
        family = f"power cut in {scenario.name}"
        if self._wanted not in family:
            return
        store = self._fresh(scenario)
        model = DiskModel(store.run_dir.root)
        calls = recorded(lambda: scenario.operation(store)).done
        for call in calls[:number]:
            model.apply(call)
        for luck in (None, draw, draw):
            survivors = self._folder()
            model.write_survivors(survivors, luck)
            self._report.threw(LAYER, family)
            left = CheckpointStore(RunDir(survivors))
            self._check(trial, family, left, scenario, done=number >= len(calls))
            shutil.rmtree(survivors)

    def _damage(self, trial: TrialId, draw: random.Random) -> None:
        for name in sorted(HARMS):
            if self._wanted not in f"{name} in a checkpoint":
                continue
            store = self._fresh(self._scenarios[0], links=False)
            folder = store.run_dir.checkpoint(4)
            files = sorted(path for path in folder.iterdir())
            file = draw.choice(files)
            HARMS[name](draw, file, files)
            self._report.threw(LAYER, f"{name} in a checkpoint")
            self._check_passed_over(trial, f"{name} in a checkpoint", store, f"{name}: {file.name}")
            shutil.rmtree(store.run_dir.root)

    def _check_passed_over(self, trial: TrialId, family: str, store: CheckpointStore, what: str) -> None:
        try:
            choice = store.choose("auto", deep=True, healths=HEALTHS, inspect=objection_to)
        except HarnessError as error:
            self._report.violated(trial, family, f"[{what}] nothing was chosen: {error}")
            return
        taken = choice.entry.path.name if choice.entry else None
        if taken != "step_0000002" or [path.name for path, _ in choice.passed_over] != ["step_0000004"]:
            self._report.violated(trial, family, f"[{what}] chosen was {taken}, passed over {choice.passed_over}")

    def _check(
        self,
        trial: TrialId,
        family: str,
        store: CheckpointStore,
        scenario: Scenario,
        *,
        done: bool = False,
        more: tuple[int, int] | None = None,
    ) -> None:
        """What holds right after a fault; `done`: the operation said that it has done its work."""
        allowed = {scenario.after} if done else {scenario.before, scenario.after, more}
        found = newest(store.run_dir.checkpoints)
        problem = None
        if found is None:
            problem = "no sound checkpoint is left"
        elif (found.step, found.attempt) not in allowed:
            problem = (
                f"the newest sound checkpoint is {found.path.name} of attempt {found.attempt}, not one of {allowed}"
            )
        elif not self.material.is_right(found.path, found.step):
            problem = f"the files of {found.path.name} are not those that were saved"
        elif wrong := unsound(store.run_dir.checkpoints):
            problem = f"{sorted(wrong)} are named like checkpoints and are none"
        else:
            choice = store.choose("must", deep=True, healths=HEALTHS, inspect=objection_to)
            if choice.entry is None or choice.entry.path != found.path or choice.passed_over:
                problem = f"chosen was {choice}, the newest sound checkpoint is {found.path.name}"
        if problem is not None:
            self._report.violated(trial, family, f"[{scenario.name}] {problem}")

    def _recover(self, store: CheckpointStore) -> None:
        store.clean_partials()
        _save(self.material, store, 8, 5)

    def _check_recovers(self, trial: TrialId, family: str, store: CheckpointStore) -> None:
        with traced(lambda number, call, perform: perform()):
            self._recover(store)
        found = newest(store.run_dir.checkpoints)
        names = {path.name for path in store.run_dir.checkpoints.iterdir()}
        left_over = names - {sound.path.name for sound in sound_checkpoints(store.run_dir.checkpoints)}
        if found is None or (found.step, found.attempt) != (8, 5) or left_over:
            self._report.violated(trial, family, f"after the next save the newest is {found}, left over is {left_over}")
        shutil.rmtree(store.run_dir.root)

    def _calls_of(self, scenario: Scenario) -> list[Call]:
        if scenario.name not in self._calls:
            store = self._fresh(scenario)
            self._calls[scenario.name] = recorded(lambda: scenario.operation(store)).calls
        return self._calls[scenario.name]

    def _fresh(self, scenario: Scenario, *, links: bool = True) -> CheckpointStore:
        """The prepared run; with `links` its files are shared: that is quick, and right as none is changed in place."""
        if scenario.name not in self._templates:
            template = self._folder()
            shutil.copytree(self.material.run, template)
            with traced(lambda number, call, perform: perform()):
                scenario.prepare(CheckpointStore(RunDir(template)))
            self._templates[scenario.name] = template
        folder = self._folder()
        shutil.copytree(self._templates[scenario.name], folder, copy_function=os.link if links else shutil.copy2)
        return CheckpointStore(RunDir(folder))

    def _folder(self) -> Path:
        return self._place / str(next(self._numbers))


def _said(act: Any, operation: Callable[[], object]) -> str | None:
    """What an operation that gave up said, None if it did its work."""
    try:
        with traced(act):
            operation()
    except (HarnessError, OSError) as error:
        return str(error)
    return None


def make_material(checkpoints: Path, folder: Path) -> None:
    """Keeps of a finished run what the trials need."""
    for step in STEPS:
        shutil.copytree(checkpoints / f"step_{step:07d}", folder / f"right-{step}")
    for step in STEPS[:2]:
        shutil.copytree(folder / f"right-{step}", folder / "run" / "checkpoints" / f"step_{step:07d}")


def material_in(folder: Path) -> Material:
    """What `make_material` has made."""
    kept = {step: folder / f"right-{step}" for step in STEPS}
    assert all(is_sound(path) for path in kept.values()), f"{folder} has no sound checkpoints of steps {STEPS}"
    return Material(folder / "run", kept)
