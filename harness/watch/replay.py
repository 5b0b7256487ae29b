"""`harness replay`: runs recorded curves through detector and policy, and prints a table or JSON, or draws them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import DataError, UsageError
from harness.say import say
from harness.watch.policy import Rollback
from harness.watch.recordings import curve_name, read_recording
from harness.watch.rehearsal import Rehearsal, rehearse
from harness.watch.score import Label, Score, read_labels, score_curve
from harness.watch.verdict import ALARMS

Labels = Mapping[str, Sequence[Label]]


def run_replay(files: Sequence[Path], labels: Path | None, as_json: bool, plot: Path | None) -> None:
    """Replay the files and print the results.

    Raises:
        UsageError: Two files have the same name up to the first dot, or `plot` is wanted without matplotlib.
        DataError: A file cannot be read, or has no losses.
    """
    by_name = _name_curves(files)
    known = read_labels(labels) if labels is not None else None
    rehearsals = {name: rehearse(read_recording(path)) for name, path in by_name.items()}
    for name, rehearsal in rehearsals.items():
        if not rehearsal.steps:
            raise DataError(
                f"{by_name[name]}: found no step with a loss. Give the metrics.jsonl of a run, or its folder."
            )
    if plot is not None:
        from harness.watch.curve_plot import draw

        draw(rehearsals, known or {}, plot)
    if as_json:
        say(json.dumps(as_document(rehearsals, known), allow_nan=False))
    else:
        say(as_table(rehearsals, known))


def as_document(rehearsals: Mapping[str, Rehearsal], labels: Labels | None) -> dict[str, object]:
    """Return the document that `--json` prints. `pooled` is in it only with labels."""
    curves = {
        name: {
            "events": [
                {"start": v.start, "end": v.end, "direction": v.direction, "verdict": v.kind, "channel": v.channel}
                for v in rehearsal.verdicts
            ],
            "rollbacks": [
                {
                    "step": rehearsed.step,
                    "to_step": action.to_step,
                    "skip_from_step": action.skip_steps[0],
                    "skip_to_step": action.skip_steps[1] + 1,  # the first step after the skipped ones
                    "reason": action.reason,
                }
                for rehearsed in rehearsal.actions
                if isinstance(action := rehearsed.action, Rollback)
            ],
        }
        for name, rehearsal in rehearsals.items()
    }
    document: dict[str, object] = {"curves": curves}
    if labels is not None:
        document["pooled"] = pooled(rehearsals, labels).summary()
    return document


def pooled(rehearsals: Mapping[str, Rehearsal], labels: Labels) -> Score:
    """Return the counts of all curves together. A curve without labels counts as one without events."""
    total = Score()
    for name, rehearsal in rehearsals.items():
        events = labels.get(name, ())
        total.add(score_curve(rehearsal.verdicts, events, rehearsal.steps))
        total.wasted_steps += sum(action.cost_steps(events) for action in rehearsal.actions)
    return total


def as_table(rehearsals: Mapping[str, Rehearsal], labels: Labels | None) -> str:
    """Return the text for people: a line per curve, the alarms below it, and the pooled score."""
    lines = []
    for name, rehearsal in rehearsals.items():
        kinds = Counter(verdict.kind for verdict in rehearsal.verdicts)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "nothing strange"
        lines.append(f"{name}: {len(rehearsal.steps):,} logged steps: {counts}")
        lines += [
            f"  step {v.step}: {v.kind} {v.direction} in {v.channel} since step {v.start}: "
            f"{v.height:+.3f} nats, {v.z:+.1f} sigma"
            for v in rehearsal.verdicts
            if v.kind in ALARMS or v.kind == "drift"
        ]
        for rehearsed in rehearsal.actions:
            action, target = rehearsed.action, "stop for a person"
            if isinstance(action, Rollback):
                first, last = action.skip_steps
                target = f"return to step {action.to_step}, skip steps {first} to {last}"
            lines.append(f"  step {rehearsed.step}: would {target}: {action.reason}")
    if labels is not None:
        lines.append("pooled")
        lines += [f"  {key}: {_number(value)}" for key, value in pooled(rehearsals, labels).summary().items()]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _name_curves(files: Sequence[Path]) -> dict[str, Path]:
    """Return the files by the name of their curve."""
    by_name: dict[str, Path] = {}
    for path in files:
        name = curve_name(path)
        if name in by_name:
            raise UsageError(
                f"{by_name[name]} and {path}: both are the curve {name!r}, the file name up to the first dot. "
                f"Names must differ; rename one, or replay them one after the other."
            )
        by_name[name] = path
    return by_name
