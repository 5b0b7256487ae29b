"""Half-real curves: the generator, and what the detector finds in some of them."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.detector_tables import apart, num_found
from benchmarks.half_real import FIRST_STEP, SHORT_KINDS, SLOW_KINDS, every, noise, shape, with_events
from harness.watch.detector import LossRecord
from harness.watch.recordings import read_recording
from harness.watch.rehearsal import rehearse
from harness.watch.score import Score, read_labels, score_curve

CURVES = Path(__file__).parent / "curves"
FAMILIES = {
    "mixtral-8x7b-c": (5, 10),
    "gpt3-15b-b": (5, 10),
    "pythia-160m": (1, 5, 10),
    "gpt2-124m-a": (1,),
    "modded-nanogpt-rank0": (1,),
}
"""A quiet curve of every family, and the intervals at which it is tried."""
MOST_RECORDS = 4000
LEAST_SHARE = {"mixtral-8x7b-c": 0.98, "gpt3-15b-b": 0.95, "pythia-160m": 0.98}
"""Least share of short events found; 0.75 of the other two, whose noise comes in bursts or has heavy tails."""


@cache
def curve(name: str) -> list[LossRecord]:
    return list(read_recording(CURVES / f"{name}.csv.gz"))


def logged(name: str, interval: int) -> list[LossRecord]:
    return list(every(curve(name), interval)[:MOST_RECORDS])


def scored(name: str, kind: str, interval: int) -> tuple[Score, int]:
    """The score on the added events, and the number of false alarms beside them and the real ones."""
    made = with_events(logged(name, interval), kind, seed=3)
    verdicts, steps = rehearse(made.curve).verdicts, [record.step for record in made.curve]
    real = read_labels(CURVES / "labels.csv").get(name, [])
    added = score_curve(verdicts, apart(made, real, interval), steps)
    return added, score_curve(verdicts, [*made.labels, *real], steps).num_false


@pytest.mark.parametrize("kind", [*SHORT_KINDS, *SLOW_KINDS])
def test_the_same_arguments_give_the_same_curve(kind: str) -> None:
    some = logged("gpt3-15b-b", 5)
    first, again, other = (with_events(some, kind, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert [record.step for record in first.curve] == [record.step for record in some]


@pytest.mark.parametrize("kind", SHORT_KINDS)
def test_a_short_event_changes_the_records_of_its_label_only(kind: str) -> None:
    some = logged("gpt3-15b-b", 5)
    made = with_events(some, kind, seed=1)
    in_labels = {step for label in made.labels for step in range(label.start, label.end + 1)}
    assert len(made.labels) > 10
    assert made.labels[0].start > FIRST_STEP
    assert {a.step for a, b in zip(some, made.curve, strict=True) if a != b} == {
        record.step for record in some if record.step in in_labels
    }
    losses, places = [record.loss or 0.0 for record in some], {record.step: k for k, record in enumerate(some)}
    for label in made.labels:
        first, last = places[label.start], places[label.end]
        added = max(abs((made.curve[k].loss or 0.0) - losses[k]) for k in range(first, last + 1))
        assert 1.0 <= added / max(0.25, 8 * noise(losses, first)) <= 1.6
    assert {label.direction for label in made.labels} == {"down" if kind == "fall" else "up"}


def test_some_events_follow_each_other_closely_and_some_do_not() -> None:
    labels = with_events(logged("gpt3-15b-b", 5), "plateau", seed=1).labels
    gaps = [(after.start - before.end) // 5 for before, after in pairwise(labels)]
    assert {gap < 24 for gap in gaps} == {True, False}
    assert min(gaps) >= 8


@pytest.mark.parametrize(
    ("kind", "heights"),
    [
        ("jump", [1.0]),
        ("plateau", [1.0, 1.0, 1.0, 1.0]),
        ("ramp", [0.25, 0.5, 0.75, 1.0]),
        ("decay", [1.0, 0.5**0.75, 0.5**1.5, 0.5**2.25]),
        ("sawtooth", [1.0, 0.4, 1.0, 0.4]),
        ("fall", [-1.0, -1.0, -1.0, -1.0]),
    ],
)
def test_shapes(kind: str, heights: list[float]) -> None:
    assert shape(kind, 4) == pytest.approx(heights)


def test_a_creep_and_a_shift_stay() -> None:
    some = logged("pythia-160m", 1)
    for kind, height in (("creep", 0.1), ("shift", 0.03)):
        made = with_events(some, kind, seed=1)
        last = (made.curve[-1].loss or 0.0) - (some[-1].loss or 0.0)
        assert last == pytest.approx(height * len(made.labels), abs=1e-6)
        assert made.curve[-1].attempt == (0 if kind == "creep" else len(made.labels))
    resumed = with_events(some, "resume", seed=1)
    assert resumed.labels == []
    assert resumed.curve[-1].attempt >= 1
    assert [record.loss for record in resumed.curve] == [record.loss for record in some]


def test_a_curve_is_thinned_to_its_interval() -> None:
    assert [record.step for record in every(curve("gpt3-15b-b"), 10)[1:4]] == [10, 20, 30]
    assert [record.step for record in every(curve("pythia-160m"), 5)[:3]] == [1, 6, 11]


@pytest.mark.parametrize("kind", SHORT_KINDS)
@pytest.mark.parametrize("name", FAMILIES)
def test_short_events_are_found_at_every_interval(name: str, kind: str) -> None:
    total, num_false = Score(), 0
    for interval in FAMILIES[name]:
        score, false = scored(name, kind, interval)
        total.add(score)
        num_false += false
    least = LEAST_SHARE.get(name, 0.75)
    assert num_found(total) >= least * len(total.found)
    assert num_false <= 2


@pytest.mark.parametrize(("kind", "least"), [("creep", 0.75), ("shift", 0.7)])
def test_creeps_and_shifts_are_told_as_drift(kind: str, least: float) -> None:
    num_told = num_events = 0
    for name, interval in (("mixtral-8x7b-c", 5), ("gpt3-15b-b", 5), ("pythia-160m", 1)):
        made = with_events(list(every(curve(name), interval)[:20_000]), kind, seed=1)
        said = [each for each in rehearse(made.curve).verdicts if each.kind == "drift" and each.direction == "up"]
        num_events += len(made.labels)
        num_told += sum(any(each.start <= v.step <= each.start + 1000 for v in said) for each in made.labels)
    assert num_events >= 12
    assert num_told >= least * num_events


def test_a_resume_without_a_shift_is_not_called_one() -> None:
    for name, interval in (("mixtral-8x7b-c", 5), ("gpt3-15b-b", 5), ("pythia-160m", 1), ("gpt2-124m-a", 1)):
        made = with_events(list(every(curve(name), interval)[:20_000]), "resume", seed=1)
        starts = {after.step for before, after in pairwise(made.curve) if after.attempt != before.attempt}
        assert not {each.start for each in rehearse(made.curve).verdicts if each.kind == "drift"} & starts
