"""Plays the trials of the surfaces, each surface in a process of its own that has loaded what its commands need."""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from campaigns import forked
from corpora import make_corpora
from findings import Finding, kept_findings, write_finding
from fuzz_report import Report, SurfaceReport
from guided import READERS
from guided_readers import is_available, play_reader
from oracle import Problem, generic_problems
from place import Place
from surface import Surface
from surfaces import SURFACES, surface_named
from trials import Input, TrialId, arguments_of, draw_input, patient, play, run_and_list_modules, smaller

_MEMORY_BYTES = 12 << 30
"""Of a process that plays a surface: a mistake of the fuzzer must not take the machine's."""
_LEAST_FREE_BYTES = 2 << 30
_REPORT_EVERY_S = 30.0
_WRITE_EVERY_S = 5.0
_GUIDED_SHARE = 0.2
"""Part of the time of each guided reader, compared with a surface."""
_STARTS_THREADS = ("pyarrow",)
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be played."""

    seed: int
    seconds: float
    surfaces: Sequence[str] = ()
    """All if none is named."""
    max_inputs: int | None = None
    """Of each surface, in this call."""
    num_processes: int = 1
    plays_found: bool = False
    """First what was once found."""
    plays_new: bool = True

    @property
    def wanted(self) -> list[Surface]:
        return [surface for surface in SURFACES if surface.name in self.surfaces or not self.surfaces]


@dataclass(frozen=True)
class Stage:
    """Folders of a campaign."""

    folder: Path
    """Corpora and places; goes with the campaign."""
    state: Path
    """How far each surface is, by seed."""
    found: Path
    """Where findings are kept."""

    def state_file(self, surface: str, seed: int) -> Path:
        return self.state / f"seed-{seed}" / f"{surface.replace(' ', '-')}.json"

    def corpus(self, surface: Surface) -> Path:
        return self.folder / "corpora" / surface.corpus


def fuzz(wish: Wish, stage: Stage, say: Say) -> Report:
    """Plays every surface for its share of the time, `num_processes` of them at once; the whole report."""
    wanted = wish.wanted
    make_corpora(stage.folder / "corpora", sorted({surface.corpus for surface in wanted}))
    guided = _guided(wish, say)
    started_s, whole = time.monotonic(), sum(surface.share for surface in wanted) + len(guided) * _GUIDED_SHARE
    waiting = [(surface, wish.seconds * wish.num_processes * surface.share / whole) for surface in wanted]
    running: dict[int, Surface] = {}
    said_at, failed = started_s, False
    while waiting or running:
        while waiting and len(running) < wish.num_processes:
            surface, seconds = waiting.pop(0)
            running[forked(lambda s=surface, t=seconds: _play_surface(s, t, wish, stage))] = surface
        for child in list(running):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                failed = failed or status != 0
                say(f"{running.pop(child).name}: {'done' if status == 0 else 'FAILED'}")
        time.sleep(0.05)
        if time.monotonic() > said_at + _REPORT_EVERY_S:
            said_at = time.monotonic()
            say(_added(wish, stage).progress())
    assert not failed, "a process of the fuzzer has failed"
    total = _added(wish, stage)
    for name in guided:
        report = play_reader(name, wish.seconds * _GUIDED_SHARE / whole, stage.state, stage.found, wish.seed)
        total.surfaces.append(report)
        say(f"{report.surface}: done")
    return total


def _guided(wish: Wish, say: Say) -> Sequence[str]:
    """Readers that Atheris plays: all, unless something else is asked for."""
    if wish.surfaces or wish.max_inputs is not None or not wish.plays_new:
        return ()
    if not is_available():
        say("Atheris is not installed: no readers are guided by what inputs reach (it is in the extra `dev`)")
        return ()
    return tuple(READERS)


def replay(given: Input, stage: Stage) -> list[Problem]:
    """Plays one input again, with patience."""
    surface = surface_named(given.surface)
    make_corpora(stage.folder / "corpora", [surface.corpus])
    place = Place(stage.corpus(surface), stage.folder / "replay")
    _prepare(surface, place)
    result = play(given, patient(surface), place)
    sys.stdout.write(result.outcome.output.decode(errors="backslashreplace")[-2000:])
    sys.stdout.write(result.outcome.errors.decode(errors="backslashreplace")[-4000:])
    sys.stdout.write(f"exit code {result.outcome.code}, {result.outcome.processor_s:.2f} s\n")
    return result.problems


def input_of(trial: TrialId, stage: Stage) -> Input:
    """The input of a trial."""
    surface = surface_named(trial.surface)
    make_corpora(stage.folder / "corpora", [surface.corpus])
    return draw_input(trial, surface, stage.corpus(surface))


def _added(wish: Wish, stage: Stage) -> Report:
    files = [stage.state_file(surface.name, wish.seed) for surface in wish.wanted]
    return Report([SurfaceReport.from_json(file.read_text()) for file in files if file.exists()])


def _prepare(surface: Surface, place: Place) -> None:
    """Loads what the surface's commands load on undamaged files, where they must do what they are asked."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, resource.RLIM_INFINITY))
    warnings.simplefilter("ignore")
    for name in surface.preload:
        importlib.import_module(name)
    whole = max(file for file, _ in surface.files(place.corpus))
    for asked in surface.asked:
        modules = place.root.parent / "modules.txt"
        outcome = run_and_list_modules(asked, arguments_of(asked, whole), place.root, surface.limits, modules)
        problems = generic_problems(outcome, asked.codes, asked.silent, surface.limits)
        assert not problems, f"{asked.name}, of undamaged files: {problems}, {outcome}"
        _load(modules.read_text().split())
        modules.unlink()
        place.restore()
    num_threads = len(list(Path("/proc/self/task").iterdir()))
    assert num_threads == 1, f"{surface.name}: a process with {num_threads} threads cannot be forked"
    gc.collect()
    gc.freeze()


def _load(names: Sequence[str]) -> None:
    """Imports modules, those aside that start threads and those that cannot do without them."""
    sys.modules.update(dict.fromkeys(_STARTS_THREADS))
    for name in names:
        with suppress(Exception):
            importlib.import_module(name)
    for name in _STARTS_THREADS:
        del sys.modules[name]


def _play_surface(surface: Surface, seconds: float, wish: Wish, stage: Stage) -> None:
    """Goes on where the state says that the surface is."""
    place = Place(stage.corpus(surface), stage.folder / f"play-{surface.name}")
    _prepare(surface, place)
    path = stage.state_file(surface.name, wish.seed)
    report = SurfaceReport.from_json(path.read_text()) if path.exists() else SurfaceReport(surface.name)
    ends, written_at = time.monotonic() + seconds, 0.0
    for kind, seen in list(report.kinds.items()):  # of an earlier call: it may have been mended
        if all(problem.kind != kind for problem in play(Input.from_fields(seen["input"]), surface, place).problems):
            del report.kinds[kind]
    if wish.plays_found:
        for finding in kept_findings(stage.found, surface.name):
            result = play(finding.given, patient(surface), place)
            report.count(finding.given.asked, result.outcome.code)
            for problem in result.problems:
                report.found(problem, f"kept: {finding.path.name}", finding.given)
        _write(path, report)
    first = report.next_number
    while wish.plays_new and time.monotonic() < ends:
        if wish.max_inputs is not None and report.next_number - first >= wish.max_inputs:
            break
        _require_space(stage.folder)
        _play_trial(TrialId(surface.name, wish.seed, report.next_number), surface, place, report, stage)
        report.next_number += 1
        if time.monotonic() > written_at + _WRITE_EVERY_S:
            written_at = time.monotonic()
            _write(path, report)
    _write(path, report)


def _require_space(folder: Path) -> None:
    """Ends a campaign that fills its disk, which may be the machine's memory."""
    free_bytes = shutil.disk_usage(folder).free
    assert free_bytes > _LEAST_FREE_BYTES, f"{folder} has only {free_bytes >> 20:,} MiB left"


def _play_trial(trial: TrialId, surface: Surface, place: Place, report: SurfaceReport, stage: Stage) -> None:
    given = draw_input(trial, surface, place.corpus)
    try:
        result = play(given, surface, place)
    except Exception:  # noqa: BLE001 (a mistake of the fuzzer must be told, and not end the campaign)
        report.found(
            Problem("the fuzzer itself", " / ".join(traceback.format_exc().splitlines()[-5:])), str(trial), given
        )
        return
    report.count(given.asked, result.outcome.code)
    for problem in result.problems:
        if report.knows(problem):
            report.found(problem, str(trial), given)
            continue
        again = play(given, patient(surface), place)
        if not any(problem.kind == other.kind for other in again.problems):
            report.passing += 1
            continue
        small = smaller(given, problem.kind, surface, place)
        report.found(problem, str(trial), small)
        write_finding(stage.found, Finding.of(problem, small, str(trial)))
        sys.stdout.write(f"FOUND [--replay {str(trial)!r}] {small.asked}: {problem.kind}: {problem.text[:300]}\n")
        sys.stdout.flush()


def _write(path: Path, report: SurfaceReport) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".tmp").write_text(report.to_json())
    path.with_suffix(".tmp").replace(path)


def inputs_in(path: Path) -> Input:
    """The input of a kept finding."""
    return Input.from_fields(json.loads(path.read_text()))
