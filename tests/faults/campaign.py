"""Plays the trials of the campaign's layers, each as long as its share of the time, in as many processes as wanted."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path

from campaigns import forked
from disturbed_runs import campaign_site
from fault_report import Report, TrialId
from found import play_found
from launch_faults import Trial
from scenes import RECIPES, Line, Scene, line_of, make_scene
from store_faults import Material, StoreTrials, make_material, material_in
from trainer_plans import kills_in, sweep_trial, trial_of
from warm_trainer import WarmTrainer

SHARES = {"store": 0.35, "trainer": 0.5, "launch": 0.15}
"""Parts of the time; a layer that is not asked for leaves its part to the others."""
SWEEP = "sweep"
"""The trainer killed at every call that changes the disk, each once: it has an end."""
NUM_LAUNCH_FAULTS = 8
_REPORT_EVERY_S = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be played."""

    seed: int
    seconds: float
    layers: Sequence[str]
    family: str = ""
    """Only families whose name contains this."""
    max_injections: int | None = None
    num_processes: int = 1


class Stage:
    """What trials are played on, made when it is asked for first.

    The process stays small until it is asked for the trainer: the store's layer forks thousands of times.
    """

    def __init__(self, folder: Path, recipes: Sequence[str] = ()) -> None:
        """Scenes of these recipes, all if none is named."""
        self.folder = folder
        self._recipes = [recipe for recipe in RECIPES if recipe.name in recipes or not recipes]

    def prepare(self, layer: str) -> None:
        """Makes what a layer is played on, so that forks of this process find it."""
        if layer == "store":
            _ = self.material
        elif layer in ("trainer", SWEEP):
            _ = self.scenes

    @cached_property
    def trainer(self) -> WarmTrainer:
        return WarmTrainer()

    @cached_property
    def scenes(self) -> Sequence[Scene]:
        place = self.folder / "making"
        return [make_scene(recipe, self.folder / recipe.name, place, self.trainer) for recipe in self._recipes]

    @cached_property
    def material(self) -> Material:
        """Checkpoints of the plain scene, made by another process."""
        folder = self.folder / "material"
        os.waitpid(forked(lambda: self._make_material(folder)), 0)
        return material_in(folder)

    def _make_material(self, folder: Path) -> None:
        place = self.folder / "making the material"
        make_scene(RECIPES[0], folder / "scene", place, self.trainer)
        make_material(place / "run" / "checkpoints", folder)


def play(wish: Wish, stage: Stage, say: Say) -> Report:
    """Plays every layer for its share of the time; the whole report."""
    whole = sum(SHARES.get(layer, 1.0) for layer in wish.layers)
    total = Report()
    for layer in wish.layers:
        if layer == SWEEP:
            say(f"{SWEEP}: {len(kills_in(stage.scenes)):,} calls that change the disk, in {len(stage.scenes)} scenes")
        seconds = wish.seconds * SHARES.get(layer, 1.0) / whole
        total.add(_play_layer(layer, wish, seconds, stage, say))
        if wish.max_injections is not None and total.injections.total() >= wish.max_injections:
            break
        say(f"{layer}: done")
    return total


def replay(trial: TrialId, stage: Stage, family: str = "") -> Report:
    """Plays one trial again."""
    report = Report()
    _player(trial.layer, trial.seed, family, stage, stage.folder / "replay", report)(trial.number)
    return report


def _play_layer(layer: str, wish: Wish, seconds: float, stage: Stage, say: Say) -> Report:
    """One layer in all processes; process `k` of `n` plays trials `k, k + n, k + 2 n` and so on."""
    ends = time.monotonic() + seconds
    if wish.num_processes == 1:
        return _play_in_turn(layer, wish, ends, stage, 0, None, say)
    stage.prepare(layer)
    reports = [stage.folder / f"report-{layer}-{number}.json" for number in range(wish.num_processes)]
    children = [forked(lambda k=k: _play_in_turn(layer, wish, ends, stage, k, reports[k])) for k in range(len(reports))]
    said_at = time.monotonic()
    while children:
        time.sleep(1.0)
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            assert status == 0, "a process of the campaign has failed"
            if ended:
                children.remove(child)
        if time.monotonic() > said_at + _REPORT_EVERY_S:
            said_at = time.monotonic()
            say(_progress(layer, _added(reports)))
    return _added(reports)


def _progress(layer: str, report: Report) -> str:
    return f"{layer}: {report.injections.total():,} injections, {len(report.violations)} violations"


def _added(paths: Sequence[Path]) -> Report:
    total = Report()
    for path in paths:
        if path.exists():
            total.add(Report.from_json(path.read_text()))
    return total


def _play_in_turn(
    layer: str, wish: Wish, ends: float, stage: Stage, first: int, path: Path | None, say: Say | None = None
) -> Report:
    report, told, said_at = Report(), 0, time.monotonic()
    place = stage.folder / f"play-{layer}-{first}"
    player = _player(layer, wish.seed, wish.family, stage, place, report)
    limit = None if wish.max_injections is None else wish.max_injections // wish.num_processes + 1
    numbers = count() if layer != SWEEP else range(len(kills_in(stage.scenes)))
    for number in islice(numbers, first, None, wish.num_processes):
        if time.monotonic() > ends or (limit is not None and report.injections.total() >= limit):
            break
        player(number)
        for violation in report.violations[told:]:
            sys.stdout.write(f"VIOLATION {violation}\n")
        told = len(report.violations)
        if say is not None and time.monotonic() > said_at + _REPORT_EVERY_S:
            said_at = time.monotonic()
            say(_progress(layer, report))
        if path is not None:
            path.with_suffix(".tmp").write_text(report.to_json())
            path.with_suffix(".tmp").replace(path)
    return report


def _player(layer: str, seed: int, family: str, stage: Stage, place: Path, report: Report) -> Callable[[int], None]:
    """What plays the trial of a number."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    if layer == "found":
        return lambda number: play_found(number, stage.scenes, place / "scene", stage.trainer, report)
    if layer == "store":
        trials = StoreTrials(stage.material, place, report, family)
        return lambda number: trials.play(TrialId(layer, seed, number))
    if layer == "trainer":
        return lambda number: trial_of(
            TrialId(layer, seed, number), stage.scenes, place / "scene", stage.trainer, report, family
        )
    if layer == SWEEP:
        return lambda number: sweep_trial(
            TrialId(layer, seed, number), stage.scenes, place / "scene", stage.trainer, report
        )
    expected: Line = {}

    def launch(number: int) -> None:
        if not expected:
            expected.update(_undisturbed(place))
        folder = place / str(number)
        site = campaign_site(folder, async_save=number % 2 == 1)
        Trial(site, TrialId(layer, seed, number), expected, report).run(NUM_LAUNCH_FAULTS, family)
        shutil.rmtree(folder)

    return launch


def _undisturbed(place: Path) -> Line:
    site = campaign_site(place / "undisturbed")
    code, text = site.train(cold=True).finish()
    assert code == 0, text
    return line_of(site.run_dir.root)
