"""Scores on hand-made verdicts, and the texts about bad labels."""

from pathlib import Path

import pytest

from harness.errors import DataError
from harness.watch.score import Label, Score, merged_alarms, read_labels, score_curve
from harness.watch.verdict import Kind, Verdict

STEPS = range(0, 10_000, 5)


def verdict(kind: Kind, start: int, end: int | None = None) -> Verdict:
    return Verdict(
        kind=kind, channel="total", direction="up", step=start, start=start, end=end or start, z=9.0, height=0.3
    )


@pytest.mark.parametrize(
    ("start", "end", "delay"),
    [
        (3000, 3000, 0),
        (2995, 2995, 0),
        (3025, 3030, 25),
        (3015, 3015, 15),
        (2900, 2995, 0),
        (2990, 2990, None),
        (3026, 3026, None),
    ],
)
def test_an_alarm_finds_an_event_with_one_logged_step_of_slack(start: int, end: int, delay: int | None) -> None:
    score = score_curve([verdict("suspect", start, end)], [Label("up", 3000, 3020)], STEPS)
    assert [found for _, found in score.found] == [delay]
    assert score.num_false == (delay is None)


def test_only_alarms_count() -> None:
    weak = [verdict("benign", 3000), verdict("drift", 3000), verdict("benign", 5000), verdict("drift", 5000)]
    score = score_curve(weak, [Label("up", 3000, 3020)], STEPS)
    assert (score.found[0][1], score.num_episodes, score.num_false) == (None, 0, 0)


def test_the_first_steps_count_for_nothing() -> None:
    labels = [Label("up", 800, 820), Label("up", 1000, 1020)]
    score = score_curve([verdict("confirmed", 700), verdict("suspect", 800)], labels, STEPS)
    assert (score.found, score.num_episodes, score.num_false) == ([], 0, 0)
    assert score.num_quiet == sum(step > 1020 for step in STEPS)


def test_alarms_within_fifty_steps_are_one() -> None:
    alarms = merged_alarms([verdict("suspect", 3000), verdict("confirmed", 3050, 3060), verdict("suspect", 3111)])
    assert [(alarm.start, alarm.end, alarm.confirmed) for alarm in alarms] == [(3000, 3060, True), (3111, 3111, False)]


def test_the_pooled_summary() -> None:
    score = Score()
    first = [
        verdict("suspect", 3000),
        verdict("confirmed", 3000, 3010),
        verdict("confirmed", 6000),
        verdict("suspect", 7000),
    ]
    score.add(score_curve(first, [Label("up", 3000, 3010), Label("down", 4000, 4000)], STEPS))
    score.add(score_curve([verdict("non-finite", 2010)], [Label("up", 2000, 2100)], range(4000)))
    assert score.summary() == {
        "recall": 2 / 3,
        "recall_up": 1.0,
        "recall_down": 0.0,
        "recall_persistent": 1.0,
        "precision": 0.5,
        "delay_p50_steps": 0,
        "delay_p90_steps": 10,
        "false_alarms_per_100k": 1e5 * 2 / (1799 - 4 + 2999 - 101),
        "false_confirmed_per_100k": 1e5 * 1 / (1799 - 4 + 2999 - 101),
        "wasted_steps": 0,
    }


def test_nothing_to_divide_by_is_null() -> None:
    summary = Score().summary()
    assert summary.pop("wasted_steps") == 0
    assert set(summary.values()) == {None}


def test_labels_are_read_by_curve(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("curve,direction,start,end,peak\na,up,10,20,3.5\nb,down,5,5,1\na,up,30,30,\n")
    assert read_labels(path) == {"a": [Label("up", 10, 20), Label("up", 30, 30)], "b": [Label("down", 5, 5)]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "curve,start,end\na,1,2\n",
            "labels.csv: the labels have no column direction; the first line is 'curve,start,end'. "
            "Needed are curve,direction,start,end.",
        ),
        (
            "curve,direction,start,end\na,up,1,2\na,sideways,1,2\n",
            "labels.csv:3: 'a,sideways,1,2' is not a label. The direction is up or down, start and end are steps. "
            "Correct the line.",
        ),
    ],
)
def test_bad_labels_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_labels(path)
    assert str(caught.value) == f"{tmp_path}/{message}"
