"""The trainer itself, disturbed at its system calls, at random moments and between its starts.

A trial plays one scene: a run that goes on from a checkpoint. It is disturbed once or a few times, each time in the
start that recovers from the fault before; then it is started once more and must end. What must hold:

- a start goes on from the newest checkpoint that is sound, and from no other;
- what was sound stays so, unless it was harmed or let go by the retention; nothing unsound has a checkpoint's name;
- exit code 0 means that the last step was done and saved; no start hangs, and none ends in a traceback;
- every step that is recorded has, bit for bit, the loss, the gradient norm and the samples of the undisturbed run.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from fault_report import Report, TrialId
from harms import HARMS
from judge import Sound, newest, sound_checkpoints, unsound
from meanwhile import MEANWHILE, put_right
from process_runs import descendants, kill_all
from run_folder_faults import fill_up, harm_run_file, occupied, write_protected
from scenes import LAST_STEP, SNAPSHOTS, Line, Scene, line_of
from surroundings import SURROUNDINGS, Surroundings
from system_calls import SystemCall, injection, struck
from warm_trainer import Outcome, WarmTrainer

from harness.errors import EXIT_FINISHED
from harness.run.lock import last_owner_of
from harness.run.paths import RunDir

LAYER = "trainer"
ERRORS: Mapping[str, Sequence[str]] = {
    "write": ("ENOSPC", "EIO", "EDQUOT"),
    "pwrite64": ("ENOSPC", "EIO"),
    "writev": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "ENOSPC", "ESTALE"),
    "fdatasync": ("EIO",),
    "close": ("EIO", "EDQUOT"),
    "rename": ("EIO", "ENOSPC", "EROFS", "ESTALE", "EXDEV"),
    "mkdir": ("ENOSPC", "EROFS"),
    "unlink": ("EIO", "EROFS", "ESTALE"),
    "unlinkat": ("EIO", "EROFS"),
    "rmdir": ("EIO", "ENOTEMPTY"),
    "ftruncate": ("EIO", "ENOSPC"),
    "openat": ("ENOSPC", "EMFILE", "ESTALE", "EROFS"),
}
SLOW = ("write", "fsync", "rename", "unlink", "mkdir")
READ_ERRORS = ("EIO", "ESTALE", "EMFILE", "EACCES")
assert all(hasattr(errno, name) for names in (*ERRORS.values(), READ_ERRORS) for name in names)
_RESUMING = "resuming small from "


@dataclass(frozen=True)
class CallFault:
    """A fault at one system call."""

    call: SystemCall
    kind: str
    """`SIGKILL`, `lost` (the disk says that it has what it has not), `slow`, or the name of an errno."""
    sticky: bool = False

    @property
    def family(self) -> str:
        if self.kind == "SIGKILL":
            return f"SIGKILL at {self.call.name}"
        if self.kind == "lost":
            return "a write that is lost"
        if self.kind == "slow":
            return f"a {self.call.name} that takes a second"
        return f"{self.kind} {'from then on ' if self.sticky else ''}at {self.call.name}"

    @property
    def strace(self) -> str:
        if self.kind == "SIGKILL":
            return "signal=SIGKILL"
        if self.kind == "slow":
            return "delay_exit=1000000"
        return f"retval={self.call.result}" if self.kind == "lost" else f"error={self.kind}"


def call_faults(calls: Sequence[SystemCall]) -> list[CallFault]:
    """Every fault at every call of a scene."""
    found = [CallFault(call, "SIGKILL") for call in calls]
    for call in calls:
        kinds = READ_ERRORS if call.reads else ERRORS.get(call.name, ())
        found += [CallFault(call, kind, sticky) for kind in kinds for sticky in (False, True)]
        if call.name in SLOW:
            found.append(CallFault(call, "slow"))
        if (
            call.name == "write"
            and call.result > 0
            and call.path.endswith((".distcp", ".tmp", ".pt", ".json", ".partial"))
        ):
            found.append(CallFault(call, "lost"))
    return found


@dataclass
class Before:
    """The run as a fault found it."""

    newest: Sound | None
    sound: set[Path]
    harmed: set[str] = field(default_factory=set)
    """Names of the checkpoints that the campaign itself has harmed."""
    unreadable: str | None = None
    """Name of a checkpoint that may be passed over, because reading it was made to fail."""


class TrainerTrial:
    """One scene, disturbed as its seed says."""

    def __init__(self, scene: Scene, trial: TrialId, place: Path, trainer: WarmTrainer, report: Report) -> None:
        self._scene, self._trial, self._place, self._trainer, self._report = scene, trial, place, trainer, report
        self.draw = random.Random(str(trial))
        self.run_dir = scene.copy(place)
        self._family = "no fault"
        self._harmed: set[str] = set()
        self._may_lack_lines = False
        self._was_refused = False
        self._num_failed_starts = 0
        self._around = Surroundings("as they should be")
        self._story: list[str] = []

    def play(self, faults: Sequence[Callable[[TrainerTrial], None]]) -> None:
        """Throws the faults one after the other, then starts once more."""
        for fault in faults:
            if line_of(self.run_dir).get(LAST_STEP) and self._is_finished():
                break
            fault(self)
        outcome = self.start("the last start")
        if "failed before they saved anything:" in outcome.output and self._num_failed_starts > 1:
            outcome = self.start("the same by a person, who has found the cause", resume="must")
        if outcome.code != EXIT_FINISHED:
            self._violated(f"the last start left with {outcome.code}: {outcome.output[-700:]}")
        self._check_line(is_last=True)
        self._report.num_trials += 1

    def at_call(self, fault: CallFault) -> None:
        """A start that is disturbed at a system call."""
        self._family = fault.family
        arguments = injection(fault.call, self.run_dir, fault.strace, sticky=fault.sticky)
        unreadable = fault.call.path.split("/")[1] if fault.call.path.startswith("checkpoints/") else None
        if fault.call.path.endswith("metrics.jsonl"):
            self._may_lack_lines = True
        outcome = self.start(
            f"{fault.kind}{' (sticky)' if fault.sticky else ''} at {fault.call}",
            strace=arguments,
            unreadable=unreadable,
        )
        self._counted(struck(self.run_dir))
        if fault.kind != "SIGKILL" and outcome.was_killed and not outcome.hangs:
            self._violated("killed without being told to")

    def killed(self, number: signal.Signals) -> None:
        """A start to which a signal is sent at a random moment."""
        self._family = f"{number.name} at a random moment"
        wait_s = self.draw.uniform(0.0, 1.5)

        def send(pid: int) -> None:
            time.sleep(wait_s)
            with suppress(ProcessLookupError):
                os.kill(pid, number)

        self.start(f"{number.name} after {wait_s:.2f} s", meanwhile=send)
        self._counted(True)

    def writer_killed(self) -> None:
        """A start one of whose forked writers is killed, as by a kernel that wants memory."""
        self._family = "SIGKILL of a forked writer"
        victims: list[int] = []

        def hunt(pid: int) -> None:
            deadline = time.monotonic() + 30
            while not victims and time.monotonic() < deadline and _is_running(pid):
                victims.extend(list(descendants(pid))[-1:])
                kill_all(victims)

        self.start("SIGKILL of the first forked writer", meanwhile=hunt)
        self._counted(bool(victims))

    def harmed(self, name: str) -> None:
        """Damage to a file of the newest checkpoint, if an older one is there to go back to; seen by the next start."""
        usable = [sound for sound in sound_checkpoints(self.run_dir / "checkpoints") if sound.health != "abandoned"]
        if len(usable) < 2:
            return
        self._family = f"{name} in a checkpoint"
        folder = usable[0].path
        files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        file = self.draw.choice(files)
        HARMS[name](self.draw, file, files)
        self._story.append(f"{name}: {folder.name}/{file.name}")
        self._harmed.add(folder.name)
        self._counted(True)

    def snapshot_harmed(self, name: str) -> None:
        """Damage to a file of a snapshot, if a start that was disturbed has left one; seen by the next start."""
        files = sorted(path for path in (self.run_dir / SNAPSHOTS).rglob("*") if path.is_file() and path.stat().st_size)
        if len(files) < 2:
            return
        self._family = f"{name} in a snapshot"
        file = self.draw.choice(files)
        HARMS[name](self.draw, file, files)
        self._story.append(f"{name}: {file.name}")
        self._counted(True)

    def run_file_harmed(self, name: str) -> None:
        """Damage to a file of the run directory that is no checkpoint."""
        self._family = f"damage to {name}"
        self._story.append(harm_run_file(self.draw, self.run_dir / name))
        self._harmed.add(Path(name).name)
        self._counted(True)
        if name == "metrics.jsonl":
            self._may_lack_lines = True

    def on_a_small_disk(self) -> None:
        """A start on a disk that fills up; afterwards there is room again."""
        self._family = "a full disk"
        with fill_up(self.run_dir, self.draw) as size:
            if size is None:
                return
            outcome = self.start(f"a disk with {size} KiB left")
        self._counted("No space left" in outcome.output or "cannot write" in outcome.output)
        self._may_lack_lines |= "metrics.jsonl" in outcome.output

    def write_protected(self) -> None:
        """A start on a file system that is read-only; afterwards it can be written again."""
        self._family = "a read-only file system"
        with write_protected(self.run_dir) as is_done:
            if not is_done:
                return
            outcome = self.start("a read-only run directory")
        if outcome.code == EXIT_FINISHED or "ead-only" not in outcome.output:
            self._violated(f"a read-only run directory gave {outcome.code}: {outcome.output[-300:]}")
        self._counted(True)

    def occupied(self) -> None:
        """A start while another process trains in the run directory."""
        self._family = "a second process in the run directory"
        with occupied(self.run_dir):
            outcome = self.start("while another process holds the lock")
        if outcome.code != 64 or "is in use" not in outcome.output:
            self._violated(f"a second process in the run directory left with {outcome.code}: {outcome.output[-300:]}")
        self._counted(True)

    def meddled_with(self, name: str) -> None:
        """A start in whose folder somebody does something once it holds the run: it trains on, to its end."""
        self._family = f"meanwhile {name}"
        wait_s = self.draw.uniform(0.0, 1.0)
        if "metrics.jsonl" in name:
            self._may_lack_lines = True

        def meddle(pid: int) -> None:
            while _is_running(pid) and not self._is_held_by(pid):
                time.sleep(0.01)
            time.sleep(wait_s)
            MEANWHILE[name](self.draw, self.run_dir)

        is_first = not self._story
        outcome = self.start(f"{name} after {wait_s:.2f} s", meanwhile=meddle)
        put_right(self.run_dir)
        if is_first and outcome.code != EXIT_FINISHED:
            self._violated(f"it left with {outcome.code}: {outcome.output[-500:]}")
        self._counted(True)

    def _is_held_by(self, pid: int) -> bool:
        owner = last_owner_of(RunDir(self.run_dir))
        return owner is not None and owner.pid == pid

    def index_harmed(self) -> None:
        """An index of the newest checkpoint that names a file outside of it; seen by the next start."""
        usable = [sound for sound in sound_checkpoints(self.run_dir / "checkpoints") if sound.health != "abandoned"]
        if len(usable) < 2 or not (index := usable[0].path / ".metadata").is_file():
            return
        self._family = "an index that names ../x"
        index.write_bytes(index.read_bytes().replace(b"__0_0.distcp", b"../../x.dist"))
        self._story.append(f"an index that names ../../x.dist: {usable[0].path.name}")
        self._harmed.add(usable[0].path.name)
        self._counted(True)

    def surrounded(self, name: str) -> None:
        """A start in surroundings that are not as they should be."""
        self._family = name
        is_first = not self._story
        around = SURROUNDINGS[name](self.draw)
        self._around = around
        outcome = self.start(around.what, prepare=around.prepare, meanwhile=around.meanwhile)
        self._around = Surroundings("as they should be")
        if is_first and outcome.code != EXIT_FINISHED and not around.may_fail:
            self._violated(f"it left with {outcome.code}: {outcome.output[-500:]}")
        self._counted(True)

    def start(
        self,
        what: str,
        *,
        strace: Sequence[str] = (),
        meanwhile: Callable[[int], None] | None = None,
        prepare: Callable[[], None] = lambda: None,
        unreadable: str | None = None,
        resume: str = "auto",
    ) -> Outcome:
        """Starts the trainer and checks what came of it."""
        self._story.append(what)
        folder = self.run_dir / "checkpoints"
        before = Before(newest(folder), {sound.path for sound in sound_checkpoints(folder)}, self._harmed, unreadable)
        config = self._place / "config.yaml"
        outcome = self._trainer.start(
            config, self.run_dir, strace=strace, meanwhile=meanwhile, prepare=prepare, resume=resume
        )
        self._num_failed_starts += outcome.code > 0
        self._report.num_starts += 1
        rejected = self.run_dir / "signals" / "rejected" / "rollback.json"
        self._was_refused |= "was not carried out" in outcome.output or rejected.exists()
        self._check_end(outcome)
        self._check_resumed(outcome, before)
        self._check_checkpoints(before)
        self._check_line()
        return outcome

    def _check_end(self, outcome: Outcome) -> None:
        if outcome.hangs:
            self._violated(f"it hangs: {outcome.output[-6000:]}")
        if "Traceback" in outcome.output and not self._around.may_fail:
            self._violated(f"a traceback: {outcome.output[-1500:]}")
        if outcome.code == EXIT_FINISHED and not self._is_finished():
            self._violated(f"exit code 0, but step {LAST_STEP} is not saved: {outcome.output[-500:]}")
        says_why = "error" in outcome.output or "(exit code" in outcome.output
        if outcome.code > 0 and not says_why and self._around.is_heard:
            self._violated(f"left with {outcome.code} and said only: {outcome.output[-300:]}")

    def _is_finished(self) -> bool:
        found = newest(self.run_dir / "checkpoints")
        return found is not None and found.step == LAST_STEP

    def _check_resumed(self, outcome: Outcome, before: Before) -> None:
        resumed = [line for line in outcome.output.splitlines() if line.startswith(_RESUMING)]
        started_anew = f"starting small anew in {self.run_dir}" in outcome.output
        if before.newest is not None and started_anew:
            self._violated(f"started anew although {before.newest.path.name} is sound")
        if not resumed or before.newest is None:
            return
        taken = Path(resumed[0].removeprefix(_RESUMING).rpartition(" (step ")[0])
        passed_over = (
            before.unreadable == before.newest.path.name and f"passed over {before.newest.path}" in outcome.output
        )
        if taken != before.newest.path and not passed_over:
            self._violated(
                f"resumed from {taken.name}, the newest sound checkpoint was {before.newest.path.name}: "
                f"{outcome.output[:1500]}"
            )

    def _check_checkpoints(self, before: Before) -> None:
        folder = self.run_dir / "checkpoints"
        if before.newest is not None and newest(folder) is None:
            self._violated("no sound checkpoint is left")
        if wrong := unsound(folder) - self._harmed:
            self._violated(f"{sorted(wrong)} are named like checkpoints and are none")

    def _check_line(self, *, is_last: bool = False) -> None:
        found = line_of(self.run_dir)
        expected, other = self._scene.expected, self._scene.unrolled
        wrong = [step for step, value in found.items() if value not in (expected.get(step), other.get(step))]
        if wrong:
            self._violated(f"steps {wrong} are not those of the undisturbed run")
        elif is_last:
            self._check_whole(found, other if self._was_refused else expected)

    def _check_whole(self, found: Line, expected: Line) -> None:
        lacking = [step for step in expected if step not in found]
        wrong = [step for step, value in expected.items() if step in found and found[step] != value]
        if self._may_lack_lines:  # lines of before a rollback show through
            wrong = [step for step in wrong if found[step] != self._scene.unrolled.get(step)]
        if wrong or (lacking and not self._may_lack_lines):
            self._violated(f"at the end steps {wrong} are not those of the undisturbed run, {lacking} are missing")

    def _counted(self, has_struck: bool) -> None:
        if has_struck:
            self._report.threw(LAYER, self._family)
        else:
            self._report.missed[LAYER, self._family] += 1

    def _violated(self, text: str) -> None:
        story = "; ".join(self._story)
        self._report.violated(self._trial, self._family, f"[{self._scene.recipe.name}: {story}] {text}")


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
