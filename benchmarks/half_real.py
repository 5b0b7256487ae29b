"""Half-real curves: events of known kind, height and place, added to the real noise of recorded curves.

Recorded events are few and mostly of one kind. Here the noise, the trend and their oddities are real, and the events
are drawn by a generator that gives the same for the same arguments:

| kind | shape | label |
|---|---|---|
| jump | one record | that record |
| plateau | two to nine records at the same height | these records |
| ramp | rises over two to nine records, and ends | these records |
| decay | jumps, and falls back over two to nine records | these records |
| sawtooth | two to nine records, full and 40 % in turn | these records |
| fall | a plateau, downwards | these records |
| creep | +0.1 nats over 300 steps, and stays | the 300 steps |
| shift | a resume from which on the loss is 0.03 nats higher | 300 steps from the resume on |
| resume | a resume without a shift, to count what is said of nothing | none |

The short kinds are 8 to 13 standard deviations of the noise around them high, and at least a quarter of a nat. Half of
them follow the one before within 8 to 24 records, and they begin at step 1,000, where losses still fall steeply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random
from statistics import median

from harness.watch.detector import LossRecord
from harness.watch.score import Label

Curve = Sequence[LossRecord]

SHORT_KINDS = ("jump", "plateau", "ramp", "decay", "sawtooth", "fall")
SLOW_KINDS = ("creep", "shift", "resume")
FIRST_STEP = 1000
_LEAST_NATS, _LEAST_SIGMAS, _MOST_TIMES = 0.25, 8.0, 1.6
_MOST_RECORDS_LONG = 9
_NOISE_RECORDS, _NOISE_EVERY = 150, 6
_CREEP_NATS, _SHIFT_NATS, _SLOW_STEPS = 0.1, 0.03, 300
_SLOW_EVERY_STEPS, _SLOW_EVERY_RECORDS = 3000, 1200
_LAST_RECORDS = 60


@dataclass(frozen=True)
class HalfReal:
    """A recorded curve with events added."""

    curve: list[LossRecord]
    labels: list[Label]


def every(curve: Curve, steps: int) -> Curve:
    """Return the records of a curve that a run would have which logs every `steps` steps."""
    logged = max(1, median(b.step - a.step for a, b in pairwise(curve[-101:])))
    return curve[:: max(1, round(steps / logged))]


def with_events(curve: Curve, kind: str, seed: int) -> HalfReal:
    """Return the curve with events of one kind."""
    random = Random(f"{kind} {seed}")
    return _with_slow_events(curve, kind, random) if kind in SLOW_KINDS else _with_short_events(curve, kind, random)


def shape(kind: str, num_records: int) -> list[float]:
    """Return the heights of an event in its records, as shares of its full height."""
    shapes: dict[str, Callable[[int], float]] = {
        "jump": lambda _: 1.0,
        "plateau": lambda _: 1.0,
        "ramp": lambda place: (place + 1) / num_records,
        "decay": lambda place: 0.5 ** (3 * place / num_records),
        "sawtooth": lambda place: 0.4 if place % 2 else 1.0,
        "fall": lambda _: -1.0,
    }
    return [shapes[kind](place) for place in range(1 if kind == "jump" else num_records)]


def noise(losses: Sequence[float], place: int) -> float:
    """Return the standard deviation of the noise around a place, as distance from centred medians of 101 values.

    The next values differ by less where noise comes in bursts; the labels of recorded events are by this distance too.
    """
    places = range(max(0, place - _NOISE_RECORDS), min(len(losses), place + _NOISE_RECORDS), _NOISE_EVERY)
    return 1.4826 * median(abs(losses[at] - median(losses[max(0, at - 50) : at + 51])) for at in places)


def _with_short_events(curve: Curve, kind: str, random: Random) -> HalfReal:
    losses = [record.loss or 0.0 for record in curve]
    changed, labels = list(curve), []
    place = next((place for place, record in enumerate(curve) if record.step > FIRST_STEP), len(curve))
    place += random.randrange(3, 40)
    while place < len(curve) - _LAST_RECORDS:
        height = max(_LEAST_NATS, _LEAST_SIGMAS * noise(losses, place)) * random.uniform(1.0, _MOST_TIMES)
        shares = shape(kind, random.randrange(2, _MOST_RECORDS_LONG + 1))
        for offset, share in enumerate(shares):
            at = place + offset
            changed[at] = replace(curve[at], loss=losses[at] + share * height)
        end = place + len(shares) - 1
        labels.append(Label("down" if kind == "fall" else "up", curve[place].step, curve[end].step))
        place = end + (random.randrange(8, 24) if random.random() < 0.5 else random.randrange(40, 240))
    return HalfReal(changed, labels)


def _with_slow_events(curve: Curve, kind: str, random: Random) -> HalfReal:
    """Add creeps or shifts. Each leaves the loss higher, and the next comes on top."""
    changed, labels = [], []
    begins: list[int] = []
    due = FIRST_STEP + random.randrange(500, 1500)
    last = curve[-1].step - 2 * _SLOW_STEPS
    num_since = _SLOW_EVERY_RECORDS
    for record in curve:
        num_since += 1
        if due <= record.step < last and num_since >= _SLOW_EVERY_RECORDS:
            begins.append(record.step)
            num_since = 0
            due = record.step + _SLOW_EVERY_STEPS + random.randrange(500)
            if kind != "resume":
                labels.append(Label("up", record.step, record.step + _SLOW_STEPS))
        if kind == "creep":
            added = _CREEP_NATS * sum(min(1.0, (record.step - begin) / _SLOW_STEPS) for begin in begins)
        else:
            added = _SHIFT_NATS * len(begins) if kind == "shift" else 0.0
        attempt = 0 if kind == "creep" else len(begins)
        changed.append(replace(record, loss=(record.loss or 0.0) + added, attempt=attempt))
    return HalfReal(changed, labels)
