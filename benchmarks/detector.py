"""Scores the spike detector on recorded curves, beside rules that public trainers use.

    python benchmarks/detector.py [CURVES_FOLDER]

The folder holds `*.csv.gz`, `labels.csv` and `creeps.csv` (default: `tests/watch/curves`). The rules are written from
descriptions of what the trainers compute, at the thresholds that they ship; the plain robust z has the threshold that
is best on these curves. Prints Markdown tables:

1. events found and false alarms of all rules;
2. this detector and the robust z, each at the threshold that is best on the other families, on the family left out;
3. the share of short events found that were added to real noise (`benchmarks.half_real`), by kind, family and interval;
4. creeps, and shifts after a resume: added ones, and the recorded ones;
5. how often the gradient norm jumps on quiet curves; and the time that a million records take.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import detector_tables as tables
from benchmarks import robust_z
from benchmarks.detector_tables import FAMILIES
from harness.watch.detector import LossRecord
from harness.watch.recordings import curve_name, read_recording
from harness.watch.rehearsal import rehearse
from harness.watch.score import Label, Score, read_labels, score_curve
from harness.watch.verdict import TOTAL, Verdict

_FOLDER = Path(__file__).parent.parent / "tests" / "watch" / "curves"
_NOT_SCORED = ("excerpt", "validation")
"""Curves too short to have a score."""

Curve = Sequence[LossRecord]
FindVerdicts = Callable[[Curve], list[Verdict]]


class Window:
    """Mean and standard deviation of the last values."""

    def __init__(self, size: int) -> None:
        self._values: deque[float] = deque(maxlen=size)
        self._sum = self._squares = 0.0

    def __len__(self) -> int:
        return len(self._values)

    def add(self, value: float) -> None:
        """Takes a value in, and the oldest out if the window is full."""
        if len(self._values) == self._values.maxlen:
            oldest = self._values[0]
            self._sum -= oldest
            self._squares -= oldest * oldest
        self._values.append(value)
        self._sum += value
        self._squares += value * value

    @property
    def mean(self) -> float:
        """Mean of the values in the window."""
        return self._sum / len(self._values)

    def z(self, value: float) -> float:
        """Return the number of standard deviations by which a value exceeds the mean."""
        variance = self._squares / len(self._values) - self.mean**2
        return (value - self.mean) / math.sqrt(max(variance, 1e-12))


def megatron(curve: Curve) -> Iterable[int]:
    """Apply Megatron-LM's rerun state machine: ten times the largest of the first 100 losses."""
    largest = max((_loss(record) for record in curve[:100]), default=math.inf)
    return (record.step for record in curve[100:] if _loss(record) >= 10 * largest)


def internevo(curve: Curve) -> Iterable[int]:
    """Apply InternEvo's monitor: 1.5 times the loss before."""
    return (b.step for a, b in zip(curve, curve[1:], strict=False) if _loss(b) > 1.5 * _loss(a))


def flagscale(curve: Curve) -> Iterable[int]:
    """Apply FlagScale's detector, after a warm-up: 20 % above the last good loss, which a spike does not replace."""
    good = math.inf
    for record in curve[100:]:
        if _loss(record) >= 1.2 * good:
            yield record.step
        else:
            good = _loss(record)


def llm_foundry(curve: Curve) -> Iterable[int]:
    """Apply llm-foundry's callback: more than four losses in a row of twice the window's mean (5 % of the run)."""
    window = Window(max(100, len(curve) // 20))
    in_a_row = 0
    for record in curve:
        high = len(window) >= 100 and _loss(record) >= 2 * window.mean
        in_a_row = in_a_row + 1 if high else 0
        if in_a_row > 4:
            yield record.step
        window.add(_loss(record))


def olmo_core(curve: Curve) -> Iterable[int]:
    """Apply OLMo-core's step skipper: loss or gradient norm 6 standard deviations above the mean of the last 128."""
    losses, norms = Window(128), Window(128)
    for record in curve:
        norm = record.grad_norm
        if len(losses) >= 64 and (losses.z(_loss(record)) > 6 or (norm is not None and norms.z(norm) > 6)):
            yield record.step
        losses.add(_loss(record))
        if norm is not None:
            norms.add(norm)


def llm_c(curve: Curve) -> Iterable[int]:
    """Apply llm.c's outlier detector: 7 standard deviations, the value itself being one of the 128."""
    losses, norms = Window(128), Window(128)
    for record in curve:
        losses.add(_loss(record))
        norm = record.grad_norm
        if norm is not None:
            norms.add(norm)
        if len(losses) == 128 and (losses.z(_loss(record)) > 7 or (norm is not None and norms.z(norm) > 7)):
            yield record.step


def harness(curve: Curve) -> list[Verdict]:
    """Apply this project's detector."""
    return rehearse(curve).verdicts


def _of_rule(rule: Callable[[Curve], Iterable[int]]) -> FindVerdicts:
    """Return the alarms of a published rule as verdicts: every alarm is a suspect of one step."""

    def find(curve: Curve) -> list[Verdict]:
        return [
            Verdict(kind="suspect", channel=TOTAL, direction="up", step=step, start=step, end=step, z=0.0, height=0.0)
            for step in rule(curve)
        ]

    return find


RULES: dict[str, FindVerdicts] = {
    "Megatron-LM, 10 × largest of the first 100": _of_rule(megatron),
    "InternEvo, 1.5 × the loss before": _of_rule(internevo),
    "FlagScale, last good loss + 20 %": _of_rule(flagscale),
    "llm-foundry, 2 × window mean, 5 in a row": _of_rule(llm_foundry),
    "OLMo-core, 128 steps, 6 sigma": _of_rule(olmo_core),
    "llm.c, 128 steps, 7 sigma": _of_rule(llm_c),
    "**harness**": harness,
}


@dataclass
class Row:
    """The score of one rule."""

    pooled: Score = field(default_factory=Score)
    by_family: dict[str, Score] = field(default_factory=lambda: {family: Score() for family in FAMILIES})

    def add(self, name: str, verdicts: list[Verdict], labels: Sequence[Label], steps: Sequence[int]) -> None:
        """Counts one curve in."""
        for family, score in self.by_family.items():
            if name.startswith(family):
                score.add(score_curve(verdicts, labels, steps))
        self.pooled.add(score_curve(verdicts, labels, steps))


def _loss(record: LossRecord) -> float:
    return math.nan if record.loss is None else record.loss


def scored_curves(folder: Path) -> dict[str, Curve]:
    """Return the curves of a folder that are long enough to be scored."""
    paths = sorted(folder.glob("*.csv.gz"))
    return {
        curve_name(path): list(read_recording(path)) for path in paths if not any(w in path.name for w in _NOT_SCORED)
    }


def event_table(
    curves: dict[str, Curve], labels: dict[str, list[Label]], rules: Mapping[str, FindVerdicts]
) -> list[str]:
    """Return a table of the events found by family, and of alarms outside events."""
    lines = [
        f"| rule | {' | '.join(FAMILIES)} | false alarms / 100k | false confirmed / 100k | delay, median (90 %) |",
        "|---|" + "---|" * (len(FAMILIES) + 3),
    ]
    for title, find in rules.items():
        row = Row()
        for name, curve in curves.items():
            row.add(name, find(curve), labels.get(name, ()), [record.step for record in curve])
        summary = row.pooled.summary()
        cells = [
            f"{tables.num_found(score)}/{len(score.found)}, {score.num_false} false" for score in row.by_family.values()
        ]
        delays = ["–" if summary[key] is None else summary[key] for key in ("delay_p50_steps", "delay_p90_steps")]
        lines.append(
            f"| {title} | {' | '.join(cells)} | {summary['false_alarms_per_100k']:.2f} | "
            f"{summary['false_confirmed_per_100k']:.2f} | {delays[0]} ({delays[1]}) |"
        )
    return lines


def robust_z_at(title: str) -> FindVerdicts:
    """Return a variant of the plain robust z at a threshold, both named as in `Choice.title`."""
    variant, threshold = title.split(", ")

    def find(curve: Curve) -> list[Verdict]:
        z, residual = robust_z.sizes(curve, variant)
        return robust_z.alarms(curve, z, residual, float(threshold))

    return find


def main(folder: Path) -> None:
    """Prints all tables."""
    curves = scored_curves(folder)
    labels, creeps = read_labels(folder / "labels.csv"), read_labels(folder / "creeps.csv")
    cases = [*tables.recorded_cases(curves, labels), *tables.half_real_cases(curves, labels)]
    ours, theirs = tables.choices_of_ours(cases), tables.choices_of_robust_z(cases)
    plain = tables.best(theirs, cases, lambda _: True)
    as_shipped = ours[len(ours) // 2]
    rules = {f"plain robust z ({plain.title})": robust_z_at(plain.title), **RULES}
    parts = [
        event_table(curves, labels, rules),
        tables.left_out_table(cases, {"plain robust z": theirs, "harness": ours}),
        tables.half_real_table(cases, as_shipped, plain),
        tables.slow_table(curves),
        tables.creep_lines(curves, creeps),
        tables.witness_lines(curves),
        tables.speed_lines(curves),
    ]
    sys.stdout.write("\n\n".join("\n".join(part) for part in parts) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else _FOLDER)
