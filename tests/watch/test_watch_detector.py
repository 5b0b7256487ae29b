"""The detector: channels, the mix, the witness, planned changes, and its state."""

import math
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from harness.watch.detector import Detector, LossRecord
from harness.watch.verdict import Verdict
from harness.watch.witness import Witness

LEVELS = {"zh": 3.0, "en": 2.4, "code": 1.2}
SHARES = {"zh": 0.3, "en": 0.6, "code": 0.1}
TOKENS = 100_000.0


def records(num_steps: int, seed: int = 0, shares: dict[str, float] = SHARES, first: int = 1) -> Iterator[LossRecord]:
    """A quiet run whose channels are mixed a little differently in every step."""
    noise = random.Random(seed)
    for step in range(first, first + num_steps):
        tokens = {channel: TOKENS * share * noise.uniform(0.8, 1.2) for channel, share in shares.items()}
        channels = {c: LEVELS[c] + noise.gauss(0.0, 5.0 / math.sqrt(n)) for c, n in tokens.items()}
        yield LossRecord(
            step=step,
            loss=sum(channels[c] * n for c, n in tokens.items()) / sum(tokens.values()),
            channels=channels,
            tokens=tokens,
            grad_norm=0.3 * math.exp(noise.gauss(0.0, 0.1)),
            learning_rate=3e-4,
            phase="main",
        )


def with_jump(record: LossRecord, channel: str, height: float) -> LossRecord:
    """The record with the loss of one channel, and with it the total, higher."""
    assert record.loss is not None
    share = record.tokens[channel] / sum(record.tokens.values())
    channels = {**record.channels, channel: record.channels[channel] + height}
    return replace(record, channels=channels, loss=record.loss + share * height)


def all_verdicts(detector: Detector, run: Iterator[LossRecord] | list[LossRecord]) -> list[Verdict]:
    return [verdict for record in run for verdict in detector.observe(record)]


def test_a_quiet_run_is_quiet() -> None:
    assert all_verdicts(Detector(), records(3000)) == []


@pytest.mark.parametrize("height", [1.0, -0.9])
def test_a_jump_of_a_small_channel_is_found_in_that_channel_only(height: float) -> None:
    run = [with_jump(r, "code", height) if 1500 <= r.step < 1504 else r for r in records(1520)]
    verdicts = all_verdicts(Detector(), run)
    assert {v.channel for v in verdicts if v.kind == "confirmed"} == {"code"}
    assert next(v.step for v in verdicts) == 1500
    assert {v.direction for v in verdicts} == {"up" if height > 0 else "down"}


def test_a_change_of_the_blend_is_not_strange() -> None:
    detector = Detector()
    assert all_verdicts(detector, records(1000)) == []
    other = {"zh": 0.1, "en": 0.3, "code": 0.6}
    assert all_verdicts(detector, records(1000, seed=1, shares=other, first=1001)) == []


def test_a_channel_that_comes_later_is_not_strange() -> None:
    detector = Detector()
    assert all_verdicts(detector, records(600, shares={"zh": 0.4, "en": 0.6})) == []
    assert all_verdicts(detector, records(600, seed=1, first=601)) == []


@pytest.mark.parametrize(
    "change",
    [{"phase": "decay"}, {"learning_rate": 1e-4}, {"learning_rate": 9e-4}],
    ids=["phase", "lower learning rate", "higher learning rate"],
)
def test_a_planned_change_re_baselines(change: dict[str, object]) -> None:
    def moved(record: LossRecord) -> LossRecord:
        assert record.loss is not None
        return replace(record, loss=record.loss - 0.4, channels={}, tokens={}, **change)  # type: ignore[arg-type]

    quiet = [replace(record, channels={}, tokens={}) for record in records(1000)]
    after = [moved(record) for record in records(1000, seed=1, first=1001)]
    assert all_verdicts(Detector(), quiet + after) == []
    surprise = [replace(record, learning_rate=3e-4, phase="main") for record in after]
    assert all_verdicts(Detector(), quiet + surprise)[0].kind == "suspect"


def test_a_larger_batch_re_baselines() -> None:
    detector = Detector()
    assert all_verdicts(detector, records(1000)) == []
    larger = [
        replace(r, tokens={c: 4 * n for c, n in r.tokens.items()}, loss=(r.loss or 0.0) - 0.3)
        for r in records(500, seed=1, first=1001)
    ]
    assert all_verdicts(detector, larger) == []


def test_an_explosion_right_after_a_planned_change_is_still_seen() -> None:
    detector = Detector()
    assert all_verdicts(detector, records(1000)) == []
    exploded = [replace(r, loss=11.0, channels={}, tokens={}, phase="decay") for r in records(3, seed=1, first=1001)]
    assert [v.kind for v in all_verdicts(detector, exploded)][:1] == ["suspect"]


def test_a_resume_forgets_what_was_open_but_keeps_the_level() -> None:
    detector = Detector()
    run = [with_jump(r, "en", 1.0) if r.step >= 1000 else r for r in records(1010)]
    assert all_verdicts(detector, run)
    assert detector.open_episodes()
    again = [replace(record, attempt=1) for record in records(300, seed=2, first=900)]
    assert all_verdicts(detector, again) == []
    assert detector.open_episodes() == []
    assert [v.kind for v in detector.observe(with_jump(next(records(1, first=1200)), "en", 1.0))][:1] == ["suspect"]


def test_the_first_step_after_a_rollback_does_not_confirm_what_was_left_behind() -> None:
    detector = Detector()
    all_verdicts(detector, list(records(1000)))
    spike = [with_jump(record, "code", 2.0) for record in records(6, seed=1, first=1001)]
    assert any(verdict.kind == "confirmed" for verdict in all_verdicts(detector, spike))
    higher = with_jump(next(records(1, seed=2, first=900)), "code", 0.3)  # noticed only beside the others
    assert all_verdicts(detector, [replace(higher, attempt=1)]) == []


def test_what_is_not_finite_again_right_after_a_rollback_is_said_again() -> None:
    detector = Detector()
    all_verdicts(detector, list(records(200)))
    for attempt in range(3):
        broken = replace(next(records(1, first=150)), loss=math.nan, attempt=attempt)
        assert [verdict.kind for verdict in all_verdicts(detector, [broken])] == ["non-finite"]


def test_a_loss_that_is_not_finite_is_said_once_until_it_is_finite_again() -> None:
    detector = Detector()
    run = list(records(400))
    for step in (200, 201, 202, 300):
        run[step - 1] = replace(run[step - 1], loss=math.nan, channels={}, tokens={})
    verdicts = all_verdicts(detector, run)
    assert [(v.kind, v.step, v.channel) for v in verdicts] == [
        ("non-finite", 200, "total"),
        ("non-finite", 300, "total"),
    ]


def test_a_jump_of_the_gradient_norm_makes_a_smaller_rise_suspect() -> None:
    plain = [replace(record, channels={}, tokens={}) for record in records(1000)]
    losses = [record.loss or 0.0 for record in plain]
    sigma = math.sqrt(sum((b - a) ** 2 for a, b in zip(losses, losses[1:], strict=False)) / 2 / len(losses))
    rise = max(6.3 * sigma, 0.09)
    last = replace(plain[-1], step=1003, loss=sum(losses) / len(losses) + rise)
    witness = [replace(plain[-2], step=step, grad_norm=30.0) for step in (1001, 1002)]
    assert all_verdicts(Detector(), [*plain, last]) == []
    assert [v.kind for v in all_verdicts(Detector(), [*plain, *witness, last])] == ["suspect"]


def test_the_gradient_norm_is_a_witness_for_four_records_and_never_alarms() -> None:
    noise = random.Random(1)
    witness = Witness()
    norms = [0.3 * math.exp(noise.gauss(0.0, 0.1)) for _ in range(2000)]
    assert not any(witness.observe(norm) for norm in norms)
    assert [witness.observe(norm) for norm in (2.0, 0.3, 0.3, 0.3, 0.3)] == [True, True, True, True, False]
    assert witness.observe(math.inf)
    assert not witness.observe(0.0)
    assert not witness.observe(0.36)  # less than a third up
    jumps = [replace(r, grad_norm=9.0) if r.step % 100 < 5 else r for r in records(1500)]
    assert all_verdicts(Detector(), jumps) == []


def test_a_witness_learns_a_new_usual_norm() -> None:
    witness = Witness()
    for place in range(1000):
        witness.observe(0.3 * math.exp(0.1 * math.sin(place)))
    seen = [witness.observe(math.exp(0.1 * math.sin(place))) for place in range(1000)]
    assert seen[0]
    assert not any(seen[500:])


def test_a_shift_after_a_resume_is_drift() -> None:
    detector = Detector()
    plain = [replace(record, channels={}, tokens={}) for record in records(2000)]
    higher = [replace(r, attempt=1, loss=(r.loss or 0.0) + 0.05) for r in plain[1500:]]
    assert all_verdicts(detector, plain[:1700]) == []
    again = all_verdicts(detector, higher)
    assert [(v.kind, v.direction, v.channel) for v in again] == [("drift", "up", "total")]
    assert 1501 <= again[0].start <= again[0].step <= 1517
    assert detector.open_episodes() == []


@pytest.mark.parametrize("cut", [1, 7, 40, 1003, 1250])
def test_a_detector_saved_and_restored_says_what_an_uninterrupted_one_says(cut: int) -> None:
    run = [with_jump(r, "code", 1.0) if 1000 <= r.step < 1006 or r.step > 1300 else r for r in records(1700)]
    run[1200] = replace(run[1200], loss=math.nan)
    whole, first, second = Detector(), Detector(), Detector()
    expected = all_verdicts(whole, run)
    assert {v.kind for v in expected} >= {"suspect", "confirmed", "benign", "non-finite"}
    verdicts = all_verdicts(first, run[:cut])
    second.restore(first.save())
    assert verdicts + all_verdicts(second, run[cut:]) == expected
    assert second.save() == whole.save()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": 99, "state": {}}',
        '{"format": 1, "state": {"curves": {}}}',
        '{"format": 2, "state": {"curves": 3}}',
    ],
)
def test_a_state_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Detector().restore(text)


def test_a_refused_state_changes_nothing() -> None:
    detector = Detector()
    all_verdicts(detector, records(50))
    before = detector.save()
    with pytest.raises(ValueError, match="not the state of a detector of format 2"):
        detector.restore('{"format": 99}')
    assert detector.save() == before
