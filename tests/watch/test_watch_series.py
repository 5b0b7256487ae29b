"""One curve: what is said of spikes, falls, slow moves and plain noise."""

import random
from collections.abc import Callable

import pytest

from harness.watch.curve import VALUE_SETTINGS, Curve
from harness.watch.verdict import Verdict

SIGMA = 0.03


def watched(num_values: int, shape: Callable[[int], float], sigma: float = SIGMA, seed: int = 0) -> list[Verdict]:
    """The verdicts on a curve at 2.5 nats that falls slowly, plus a shape, plus noise."""
    noise = random.Random(seed)
    curve = Curve.of("total")
    verdicts: list[Verdict] = []
    for step in range(1, num_values + 1):
        value = 2.5 - step * 1e-5 + shape(step) + noise.gauss(0.0, sigma)
        verdicts += curve.observe(step, value, 1.0, VALUE_SETTINGS)
    return verdicts


def kinds(verdicts: list[Verdict]) -> list[str]:
    return [verdict.kind for verdict in verdicts]


@pytest.mark.parametrize("sigma", [0.005, 0.03, 0.15])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_plain_noise_is_not_strange(sigma: float, seed: int) -> None:
    assert watched(5000, lambda _: 0.0, sigma, seed) == []


@pytest.mark.parametrize("interval", [1, 5, 100])
def test_the_steep_start_of_training_is_not_strange(interval: int) -> None:
    def falling(step: int) -> float:
        return 8.3 * (1 + step * interval / 60) ** -0.45

    assert watched(4000, falling) == []


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("decay of a warmup-stable-decay schedule", lambda step: -0.25 * min(1.0, max(0, step - 3000) / 2500)),
        ("less noise than before", lambda step: 0.0),
    ],
)
def test_what_training_does_by_itself_is_not_suspect(name: str, shape: Callable[[int], float]) -> None:
    assert {"suspect", "confirmed"}.isdisjoint(kinds(watched(8000, shape))), name


@pytest.mark.parametrize(("sign", "direction"), [(1, "up"), (-1, "down")])
def test_one_strange_value_is_suspect_at_once_and_then_benign(sign: int, direction: str) -> None:
    verdicts = watched(3000, lambda step: sign * 0.4 * (step == 2000))
    assert kinds(verdicts) == ["suspect", "benign"]
    suspect, benign = verdicts
    assert (suspect.step, suspect.start, suspect.direction, suspect.channel) == (2000, 2000, direction, "total")
    assert (benign.step, benign.start, benign.end) == (2003, 2000, 2000)
    assert sign * suspect.z > 8
    assert sign * suspect.height == pytest.approx(0.4, abs=4 * SIGMA)


@pytest.mark.parametrize(("sign", "direction"), [(1, "up"), (-1, "down")])
def test_a_strange_stretch_is_confirmed_by_its_second_value(sign: int, direction: str) -> None:
    verdicts = watched(3000, lambda step: sign * 0.5 * (2000 <= step < 2012))
    assert kinds(verdicts) == ["suspect", "confirmed", "benign"]
    assert [verdict.step for verdict in verdicts] == [2000, 2001, 2014]
    assert (verdicts[-1].start, verdicts[-1].end, verdicts[-1].direction) == (2000, 2011, direction)


def test_a_spike_does_not_hide_the_next_one() -> None:
    verdicts = watched(3000, lambda step: 3.0 * (2000 <= step < 2010) + 0.35 * (step == 2030))
    assert [(v.kind, v.start) for v in verdicts if v.kind == "suspect"] == [("suspect", 2000), ("suspect", 2030)]


def test_a_divergence_is_confirmed_and_in_the_end_accepted_as_the_new_level() -> None:
    verdicts = watched(6000, lambda step: 8.0 * (step >= 3000))
    assert kinds(verdicts) == ["suspect", "confirmed", "confirmed"]
    assert [verdict.start for verdict in verdicts] == [3000, 3000, 3000]
    assert verdicts[-1].end - verdicts[-1].start >= 199


def test_a_rise_that_turns_into_a_fall_is_two_episodes() -> None:
    def shape(step: int) -> float:
        return 0.3 * (2000 <= step < 2008) - 1.2 * min(1.0, max(0, step - 2007) / 30)

    verdicts = watched(2150, shape)
    assert [(v.kind, v.direction) for v in verdicts] == [
        ("suspect", "up"),
        ("confirmed", "up"),
        ("benign", "up"),
        ("suspect", "down"),
        ("confirmed", "down"),
    ]
    assert verdicts[3].step <= 2015


def test_a_fall_over_thirty_steps_in_loud_noise_is_seen_in_blocks() -> None:
    verdicts = watched(3200, lambda step: -1.3 * min(1.0, max(0, step - 3000) / 30), sigma=0.1)
    assert [(v.kind, v.direction) for v in verdicts] == [("suspect", "down"), ("confirmed", "down")]
    assert 3000 < verdicts[0].step <= 3040


def test_a_shift_of_three_standard_deviations_is_confirmed() -> None:
    verdicts = watched(3100, lambda step: 3 * SIGMA * (step >= 3000))
    assert kinds(verdicts) == ["suspect", "confirmed"]
    assert verdicts[1].step <= 3064


def test_a_slow_rise_is_drift() -> None:
    verdicts = watched(8000, lambda step: 2e-4 * max(0, step - 6000))
    assert kinds(verdicts)[:1] == ["drift"]
    assert verdicts[0].direction == "up"
    assert verdicts[0].step <= 6600


def test_nothing_but_an_explosion_is_strange_in_the_first_values() -> None:
    assert watched(31, lambda step: 0.9 * (step == 20)) == []
    assert kinds(watched(25, lambda step: 5.0 * (step >= 20))) == ["suspect", "confirmed"]


def test_heavy_tails_raise_the_threshold_of_their_side_only() -> None:
    noise = random.Random(7)
    curve = Curve.of("total")
    for step in range(20_000):
        outlier = noise.expovariate(1 / 0.05) if noise.random() < 0.05 else 0.0
        curve.observe(step, 3.0 + noise.gauss(0.0, SIGMA) + outlier, 1.0, VALUE_SETTINGS)
    up, down = (curve.values.threshold(sign, VALUE_SETTINGS) for sign in (1, -1))
    assert up == pytest.approx(VALUE_SETTINGS.most_threshold, rel=0.01)
    assert down < up - 0.3


def test_a_constant_curve_says_nothing_until_it_moves() -> None:
    curve = Curve.of("total")
    assert [v for step in range(500) for v in curve.observe(step, 2.0, 1.0, VALUE_SETTINGS)] == []
    assert kinds(curve.observe(500, 2.1, 1.0, VALUE_SETTINGS)) == ["suspect"]


def test_fewer_tokens_make_a_value_less_strange() -> None:
    noise = random.Random(3)
    curve = Curve.of("code")
    for step in range(1000):
        curve.observe(step, 1.5 + noise.gauss(0.0, SIGMA), 4000.0, VALUE_SETTINGS)
    assert curve.observe(1000, 1.5 + 8 * SIGMA, 400.0, VALUE_SETTINGS) == []
    assert kinds(curve.observe(1001, 1.5 + 8 * SIGMA, 4000.0, VALUE_SETTINGS)) == ["suspect"]
