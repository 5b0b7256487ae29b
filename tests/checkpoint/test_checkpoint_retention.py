"""Which checkpoints may be removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_samples import published_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.run.checkpoints.entries import BrokenCheckpoint, Checkpoint, Entry
from harness.run.checkpoints.retention import RetentionPolicy, to_delete


def entry(step: int, **changes: object) -> Checkpoint:
    return Checkpoint(path=Path(f"step_{step}"), step=step, copy=1, manifest=published_manifest(step, **changes))


def deleted(entries: list[Entry], policy: RetentionPolicy, in_use: tuple[Path, ...] = ()) -> list[int]:
    return [found.step for found in to_delete(entries, policy, in_use)]


FIVE: list[Entry] = [entry(step) for step in (10, 20, 30, 40, 50)]


@pytest.mark.parametrize(
    ("entries", "policy", "steps"),
    [
        (FIVE, {"keep_last": 2}, [10, 20, 30]),
        (FIVE, {"keep_last": 9}, []),
        (FIVE, {"keep_last": 1, "keep_every_steps": 20}, [10, 30]),
        ([], {"keep_last": 1}, []),
        ([entry(10, pinned=True), *FIVE[1:]], {"keep_last": 1}, [20, 30, 40]),
        ([entry(10), entry(20), entry(30, health="suspect")], {"keep_last": 1}, [10]),
        ([entry(10, health="suspect"), entry(20, health="suspect")], {"keep_last": 1}, []),
        ([entry(10), entry(20), entry(30, health="abandoned")], {"keep_last": 2}, [30]),
        ([entry(20), entry(30), entry(10, attempt=1)], {"keep_last": 1}, [20, 30]),
    ],
)
def test_what_is_deleted(entries: list[Entry], policy: dict[str, int], steps: list[int]) -> None:
    assert deleted(entries, RetentionPolicy(**policy)) == steps


def test_what_is_in_use_stays() -> None:
    assert deleted(FIVE, RetentionPolicy(keep_last=1), (Path("step_20"),)) == [10, 30, 40]


def test_broken_ones_are_left_to_a_person() -> None:
    broken = BrokenCheckpoint(path=Path("step_5"), step=5, copy=1, problem="manifest.json is missing")
    assert deleted([broken, *FIVE], RetentionPolicy(keep_last=4)) == [10]


def test_keeping_none_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="keep_last is 0, at least 1 must stay"):
        to_delete(FIVE, RetentionPolicy(keep_last=0))


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from(["clean", "suspect", "abandoned"]), st.booleans()),
        unique_by=lambda item: item[0],
    ),
    st.integers(1, 4),
)
def test_the_newest_clean_one_always_stays(items: list[tuple[int, str, bool]], keep_last: int) -> None:
    entries: list[Entry] = [entry(step, health=health, pinned=pinned) for step, health, pinned in items]
    gone = deleted(entries, RetentionPolicy(keep_last=keep_last))
    clean = [step for step, health, _ in items if health == "clean"]
    assert not clean or max(clean) not in gone
    assert not {step for step, _, pinned in items if pinned} & set(gone)
    assert gone == deleted(list(reversed(entries)), RetentionPolicy(keep_last=keep_last))
