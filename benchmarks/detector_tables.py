"""Tables of `benchmarks.detector`: beside a plain robust z, on what was recorded and on what was added to it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from time import process_time

from benchmarks import robust_z
from benchmarks.half_real import FIRST_STEP, SHORT_KINDS, HalfReal, every, with_events
from harness.watch.curve import VALUE_SETTINGS
from harness.watch.detector import Detector, LossRecord
from harness.watch.rehearsal import rehearse
from harness.watch.score import Label, Score, score_curve
from harness.watch.verdict import Verdict
from harness.watch.witness import Witness

FAMILIES = ("mixtral", "gpt3", "gpt2", "pythia", "modded-nanogpt")
_EVERY_FIFTH = ("mixtral", "gpt3")
"""Families whose curves keep every fifth step."""
_INTERVALS = (1, 5, 10)
_MOST_SHORT, _MOST_SLOW = 6000, 30_000
"""Number of records of a curve to which short, and slow, events are added."""
_OURS = (-0.8, -0.4, 0.0, 0.4, 0.8)
"""Added to both limits of the threshold."""
_THEIRS = (5.0, 5.5, 6.0, 6.5, 7.0, 7.5, 8.0, 9.0)
_GRACE_STEPS, _GRACE_RECORDS = 900, 200
"""A slow event is found if something is said within so many steps, or so many records, of its start."""

Curve = Sequence[LossRecord]
FindVerdicts = Callable[[Curve], list[Verdict]]


@dataclass(frozen=True)
class Case:
    """A curve with labels."""

    family: str
    curve: Curve
    labels: Sequence[Label]
    kind: str = "recorded"
    interval: int = 0


@dataclass
class Choice:
    """A rule at a threshold, and its score on every case."""

    title: str
    scores: list[Score] = field(default_factory=list)


def family_of(name: str) -> str:
    """Return the family of a curve."""
    return next(family for family in FAMILIES if name.startswith(family))


def recorded_cases(curves: Mapping[str, Curve], labels: Mapping[str, Sequence[Label]]) -> list[Case]:
    """Return the recorded curves with what was seen in them."""
    return [Case(family_of(name), curve, labels.get(name, ())) for name, curve in curves.items()]


def half_real_cases(
    curves: Mapping[str, Curve], labels: Mapping[str, Sequence[Label]], kinds: Sequence[str] = SHORT_KINDS
) -> Iterator[Case]:
    """Yield the curves with events added, for every kind and logging interval. Real events there are not scored."""
    for name, curve in curves.items():
        for interval in _INTERVALS[1:] if family_of(name) in _EVERY_FIFTH else _INTERVALS:
            logged = every(curve, interval)[:_MOST_SHORT]
            real = [label for label in labels.get(name, ()) if label.start <= logged[-1].step]
            for kind in kinds:
                made = with_events(logged, kind, seed=0)
                yield Case(family_of(name), made.curve, apart(made, real, interval), kind, interval)


def apart(made: HalfReal, real: Sequence[Label], interval: int) -> list[Label]:
    """Return the added events that no real one may hide."""
    margin = 20 * interval
    return [
        each
        for each in made.labels
        if not any(r.start - margin <= each.end and r.end + margin >= each.start for r in real)
    ]


def choices_of_ours(cases: Sequence[Case]) -> list[Choice]:
    """Return the detector at every threshold, scored."""
    made = []
    for added in _OURS:
        least, most = VALUE_SETTINGS.least_threshold + added, VALUE_SETTINGS.most_threshold + added
        settings = replace(VALUE_SETTINGS, least_threshold=least, most_threshold=most)
        choice = Choice(f"{least:.1f}–{most:.1f}")
        choice.scores = [_scored(case, rehearse(case.curve, settings).verdicts) for case in cases]
        made.append(choice)
    return made


def choices_of_robust_z(cases: Sequence[Case]) -> list[Choice]:
    """Return both variants of the plain rule at every threshold, scored."""
    made = {(variant, at): Choice(f"{variant}, {at}") for variant in robust_z.VARIANTS for at in _THEIRS}
    for case in cases:
        for variant in robust_z.VARIANTS:
            z, residual = robust_z.sizes(case.curve, variant)
            for at in _THEIRS:
                made[variant, at].scores.append(_scored(case, robust_z.alarms(case.curve, z, residual, at)))
    return list(made.values())


def _scored(case: Case, verdicts: Sequence[Verdict]) -> Score:
    return score_curve(verdicts, case.labels, [record.step for record in case.curve])


def pooled(choice: Choice, cases: Sequence[Case], wanted: Callable[[Case], bool]) -> Score:
    """Return the counts of one rule over the wanted cases."""
    total = Score()
    for case, score in zip(cases, choice.scores, strict=True):
        if wanted(case):
            total.add(score)
    return total


def num_found(score: Score) -> int:
    """Return the number of events found."""
    return sum(delay is not None for _, delay in score.found)


def cost(choice: Choice, cases: Sequence[Case], wanted: Callable[[Case], bool]) -> float:
    """Return what a rule costs: one for each hundredth of the events missed, and for each false suspect in 100,000."""
    recorded = pooled(choice, cases, lambda case: case.kind == "recorded" and wanted(case))
    events = pooled(choice, cases, wanted)
    missed = len(events.found) - num_found(events)
    return 100 * missed / len(events.found) + 1e5 * recorded.num_false / recorded.num_quiet


def best(choices: Sequence[Choice], cases: Sequence[Case], wanted: Callable[[Case], bool]) -> Choice:
    """Return the rule that costs least."""
    return min(choices, key=lambda choice: cost(choice, cases, wanted))


def left_out_table(cases: Sequence[Case], rules: Mapping[str, Sequence[Choice]]) -> list[str]:
    """Return a table of every family, with the threshold that is best on the others."""
    lines = [
        "| family | rule | threshold from the others | recorded | added | suspects / 100k | confirmed / 100k |",
        "|---|---|---|---|---|---|---|",
    ]
    for title, choices in rules.items():
        all_recorded, all_added = Score(), Score()
        for family in (each for each in FAMILIES if any(case.family == each for case in cases)):
            choice = best(choices, cases, lambda case, family=family: case.family != family)  # type: ignore[misc]
            recorded = pooled(choice, cases, lambda c, f=family: c.family == f and c.kind == "recorded")  # type: ignore[misc]
            added = pooled(choice, cases, lambda c, f=family: c.family == f and c.kind != "recorded")  # type: ignore[misc]
            all_recorded.add(recorded)
            all_added.add(added)
            lines.append(_left_out_line(family, title, choice.title, recorded, added))
        lines.append(_left_out_line("**all**", f"**{title}**", "", all_recorded, all_added))
    return lines


def _left_out_line(family: str, title: str, at: str, recorded: Score, added: Score) -> str:
    false = [1e5 * count / recorded.num_quiet for count in (recorded.num_false, recorded.num_false_confirmed)]
    return (
        f"| {family} | {title} | {at} | {num_found(recorded)}/{len(recorded.found)} | "
        f"{num_found(added)}/{len(added.found)} | {false[0]:.2f} | {false[1]:.2f} |"
    )


def half_real_table(cases: Sequence[Case], ours: Choice, theirs: Choice) -> list[str]:
    """Return a table of the share of added events found, ours and theirs, by kind, family and logging interval."""
    places = [(f, i) for f in FAMILIES for i in _INTERVALS if not (i == 1 and f in _EVERY_FIFTH)]
    lines = [f"| kind | {' | '.join(f'{f}, {i}' for f, i in places)} | all |", "|---" * (len(places) + 2) + "|"]
    for kind in (*SHORT_KINDS, "all"):
        cells = []
        for family, interval in [*places, ("", 0)]:
            wanted = partial(_is_of, kind=kind, family=family, interval=interval)
            scores = [pooled(choice, cases, wanted) for choice in (ours, theirs)]
            cells.append(" / ".join(_percent(num_found(score), len(score.found)) for score in scores))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return lines


def _is_of(case: Case, kind: str, family: str, interval: int) -> bool:
    is_kind = case.kind == kind or (kind == "all" and case.kind != "recorded")
    return is_kind and (not family or (case.family, case.interval) == (family, interval))


def slow_table(curves: Mapping[str, Curve]) -> list[str]:
    """Return a table of what is said of creeps, of shifts after a resume, and of resumes without a shift."""
    lines = [
        "| family, interval | creeps found | after, median | shifts found | after, median | resumes called shifted |",
        "|---|---|---|---|---|---|",
    ]
    for family in FAMILIES:
        for interval in _INTERVALS[1:] if family in _EVERY_FIFTH else _INTERVALS:
            logged = [every(c, interval)[:_MOST_SLOW] for name, c in curves.items() if name.startswith(family)]
            cells = []
            for kind in ("creep", "shift"):
                delays = [delay for curve in logged for delay in _delays(with_events(curve, kind, seed=1), interval)]
                seen = sorted(delay for delay in delays if delay is not None)
                cells.append(f"{len(seen)}/{len(delays)} | {f'{seen[len(seen) // 2]} steps' if seen else '–'}")
            resumed = [with_events(curve, "resume", seed=1).curve for curve in logged]
            num_false = sum(_num_called_shifted(curve) for curve in resumed)
            num_resumes = sum(curve[-1].attempt for curve in resumed)
            lines.append(f"| {family}, {interval} | {' | '.join(cells)} | {num_false}/{num_resumes} |")
    return lines


def _delays(made: HalfReal, interval: int) -> list[int | None]:
    """Return for every slow event the steps until something upward is said of it."""
    said = [each for each in rehearse(made.curve).verdicts if each.kind != "benign" and each.direction == "up"]
    grace = max(_GRACE_STEPS, _GRACE_RECORDS * interval)
    return [
        next((v.step - label.start for v in said if label.start <= v.step <= label.start + grace), None)
        for label in made.labels
    ]


def _num_called_shifted(curve: Curve) -> int:
    starts = {after.step for before, after in pairwise(curve) if after.attempt != before.attempt}
    return len({v.start for v in rehearse(curve).verdicts if v.kind == "drift"} & starts)


def creep_lines(curves: Mapping[str, Curve], labels: Mapping[str, Sequence[Label]]) -> list[str]:
    """Return what is said of the recorded creeps, and how much drift is said beside them."""
    lines = ["| recorded creep | said |", "|---|---|"]
    num_other = num_records = 0
    for name, curve in curves.items():
        said = [v for v in rehearse(curve).verdicts if v.step > FIRST_STEP and v.kind == "drift"]
        num_records += len(curve)
        for label in labels.get(name, ()):
            of_it = [v for v in said if label.start - _GRACE_STEPS <= v.step <= label.end + _GRACE_STEPS]
            said = [v for v in said if v not in of_it]
            words = "; ".join(f"drift at step {v.step}, {v.height:+.3f}" for v in of_it) or "nothing"
            lines.append(f"| {name}, steps {label.start} to {label.end} | {words} |")
        num_other += len(said)
    return [*lines, "", f"Drift beside these: {num_other} in {num_records:,} records."]


def witness_lines(curves: Mapping[str, Curve]) -> list[str]:
    """Return how often the gradient norm jumps on quiet curves, and how often it becomes fourfold at once."""
    lines = ["| curve | jumps of the gradient norm / 100k | fourfold ones / 100k |", "|---|---|---|"]
    for name, curve in curves.items():
        norms = [(record.step, record.grad_norm) for record in curve if record.grad_norm is not None]
        if not norms:
            continue
        witness, seen, num_fourfold = Witness(), [False], 0
        for step, norm in norms:
            is_fourfold = norm > 4 * math.exp(witness.level)
            seen.append(witness.observe(norm) and step > FIRST_STEP)
            num_fourfold += is_fourfold and seen[-1] and not seen[-2]
        num_jumps = sum(now and not before for before, now in pairwise(seen))
        lines.append(f"| {name} | {1e5 * num_jumps / len(norms):.0f} | {1e5 * num_fourfold / len(norms):.0f} |")
    return lines


def speed_lines(curves: Mapping[str, Curve]) -> list[str]:
    """Return the seconds of processor time that a million records take, with and without a gradient norm."""
    longest = max(curves.values(), key=len)
    norms = [0.3 * math.exp(0.1 * math.sin(place)) for place in range(len(longest))]
    with_norm = [replace(record, grad_norm=norm) for record, norm in zip(longest, norms, strict=True)]
    seconds = [min(_seconds(curve) for _ in range(3)) * 1e6 / len(longest) for curve in (longest, with_norm)]
    return [f"A million records: {seconds[0]:.1f} s, with a gradient norm {seconds[1]:.1f} s of one core."]


def _seconds(curve: Curve) -> float:
    observe = Detector().observe
    start = process_time()
    for record in curve:
        observe(record)
    return process_time() - start


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"
