"""One trial: a damage that follows from the trial's name, a command, and what did not hold; and smaller damages."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from accepted import Attempt
from edits import Edit, apply_edits, draw_drop, draw_edit, draw_option, option_of
from forked import Limits, Outcome, harness, run_forked, worker
from oracle import Problem, generic_problems
from place import Place
from surface import OPTION, Asked, Surface

_SEALED_SHARE = 0.75
_MOST_TRIES = 80
"""Of making a finding smaller."""
_MOST_TRIES_OF_A_HANG = 6


class TrialId(NamedTuple):
    """A trial is drawn from these three alone: `run files:1:42`."""

    surface: str
    seed: int
    number: int

    @classmethod
    def parse(cls, text: str) -> TrialId:
        surface, seed, number = text.rsplit(":", 2)
        return cls(surface, int(seed), int(number))

    def __str__(self) -> str:
        return f"{self.surface}:{self.seed}:{self.number}"


@dataclass(frozen=True)
class Input:
    """A damage and the command that meets it."""

    surface: str
    asked: str
    edits: tuple[Edit, ...]

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Input:
        return cls(fields["surface"], fields["command"], tuple(map(Edit.from_fields, fields["edits"])))

    def to_fields(self) -> dict[str, Any]:
        return {"surface": self.surface, "command": self.asked, "edits": [edit.to_fields() for edit in self.edits]}


class Result(NamedTuple):
    """How the command of a trial ended, and what did not hold."""

    outcome: Outcome
    problems: list[Problem]


def draw_input(trial: TrialId, surface: Surface, corpus: Path) -> Input:
    """The damage and the command of a trial."""
    choose = random.Random(str(trial))
    asked = choose.choices(surface.asked, [each.weight for each in surface.asked])[0]
    if OPTION in asked.arguments:
        keys = surface.keys(corpus)
        return Input(surface.name, asked.name, (draw_option(choose, "--set" in asked.arguments, keys),))
    if surface.dropped_into:
        return Input(surface.name, asked.name, tuple(_draw_drops(choose, surface, corpus)))
    files = surface.files(corpus)
    weights = _weights(surface, files)
    first = choose.choices(files, weights)[0]
    edits = []
    for _ in range(choose.choice([1, 1, 1, 1, 2, 2, 3, 5])):
        file, target = first if choose.random() < 0.8 else choose.choices(files, weights)[0]
        edits.append(draw_edit(choose, file, target.how, (corpus / file).read_bytes()))
    if surface.seals and choose.random() < _SEALED_SHARE:
        edits += [Edit(folder, "seal", {"kind": kind}) for kind, folder in surface.seals]
    return Input(surface.name, asked.name, tuple(edits))


def _draw_drops(choose: random.Random, surface: Surface, corpus: Path) -> Iterator[Edit]:
    for _ in range(choose.choice([1, 1, 2, 3, 6])):
        file, target = choose.choice(surface.files(corpus))
        yield draw_drop(choose, surface.dropped_into, file, target.how, (corpus / file).read_bytes())


def _weights(surface: Surface, files: Sequence[tuple[str, Any]]) -> list[float]:
    """A target's weight is divided among its files."""
    count = {target: sum(other == target for _, other in files) for target in surface.targets}
    return [target.weight / count[target] for _, target in files]


def play(given: Input, surface: Surface, place: Place) -> Result:
    """Damages the place, runs the command, looks at what came of it, and makes the place whole."""
    asked, file = surface.command(given.asked), given.edits[0].file
    try:
        apply_edits(place.root, given.edits)
        place.begin()
        arguments = arguments_of(asked, file, option_of(given.edits))
        outcome = _run(asked, arguments, place.root, surface.limits)
        problems = generic_problems(outcome, asked.codes, asked.silent, surface.limits)
        problems += [Problem("changed a file", text) for text in place.changes(asked.writes)]
        if outcome.code == 0 and not problems and surface.check is not None:
            attempt = Attempt(
                root=place.root,
                corpus=place.corpus,
                edits=given.edits,
                file=file,
                asked=given.asked,
                outcome=outcome,
                again=lambda arguments: run_forked(lambda: harness(arguments), place.root, surface.limits),
            )
            problems += [Problem(f"accepted wrongly: {text.split(':')[0]}", text) for text in surface.check(attempt)]
        return Result(outcome, problems)
    finally:
        place.restore()


def _run(asked: Asked, arguments: Sequence[str], folder: Path, limits: Limits) -> Outcome:
    run = worker if asked.is_worker else harness
    return run_forked(lambda: run(arguments), folder, limits, tuple(arguments))


def arguments_of(asked: Asked, file: str, option: str = "") -> list[str]:
    """The words of a command; an undamaged option is as the command has it."""
    words = {"{file}": file, "{folder}": str(Path(file).parent), OPTION: option or asked.plain}
    return [words.get(word, word.replace("{file}", file)) for word in asked.arguments]


def run_and_list_modules(asked: Asked, arguments: Sequence[str], folder: Path, limits: Limits, listed: Path) -> Outcome:
    """Runs a command and writes the names of all modules that it has loaded."""

    def run() -> int:
        code = worker(arguments) if asked.is_worker else harness(arguments)
        listed.write_text("\n".join(name for name, module in sys.modules.items() if module is not None))
        return code

    return run_forked(run, folder, Limits(10 * limits.wall_s, limits.processor_s, limits.memory_bytes))


def patient(surface: Surface) -> Surface:
    """The same with three times the time: what hangs on a busy machine is looked at again."""
    limits = surface.limits
    more = Limits(3 * limits.wall_s, 3 * limits.processor_s, limits.memory_bytes)
    return replace(surface, limits=more)


def smaller(given: Input, kind: str, surface: Surface, place: Place) -> Input:
    """The smallest damage found that shows a problem of the same kind."""

    def shows(edits: Sequence[Edit]) -> bool:
        result = play(replace(given, edits=tuple(edits)), surface, place)
        return any(problem.kind == kind for problem in result.problems)

    edits, tries, search = list(given.edits), 0, True
    most = _MOST_TRIES if not kind.startswith("hangs") else _MOST_TRIES_OF_A_HANG
    while search and tries < most:
        search = False
        for candidate in _simpler(edits):
            tries += 1
            if shows(candidate):
                edits, search = candidate, True
                break
            if tries >= most:
                break
    return replace(given, edits=tuple(edits))


def _simpler(edits: Sequence[Edit]) -> Iterator[list[Edit]]:
    """One damage less, or one that is shorter."""
    for number in range(len(edits)):
        if len(edits) > 1:
            yield [edit for at, edit in enumerate(edits) if at != number]
    for number, edit in enumerate(edits):
        for change in _shorter(edit.change):
            yield [replace(each, change=change) if at == number else each for at, each in enumerate(edits)]


def _shorter(change: Any) -> Iterator[Any]:
    """The same change with fewer repetitions."""
    if isinstance(change, dict):
        for key, value in change.items():
            for shorter in _shorter(value) if key != "at" else ():
                yield {**change, key: shorter}
    elif isinstance(change, list) and change and all(_is_piece(piece) for piece in change):
        for divisor in (10, 2):
            if any(times > divisor for _, times in change):
                yield [[text, max(1, times // divisor)] for text, times in change]


def _is_piece(piece: object) -> bool:
    return isinstance(piece, list) and len(piece) == 2 and isinstance(piece[0], str) and isinstance(piece[1], int)
