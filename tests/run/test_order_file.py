from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from harness.data.order.cursor import Cursor
from harness.errors import CheckpointError, SaveFailedError
from harness.run.order_changes import (
    History,
    KnownHistory,
    PartsAdopted,
    history_from_json,
    num_parts_of,
    num_same,
    phase_of,
    quarantined_in,
)
from harness.run.order_file import RolledBack, append_to_journal, read_journal, rollbacks_in_journal


def adoptions_of(cursor: Cursor, channel: str) -> list[PartsAdopted]:
    """The changes that adopt parts of a channel."""
    return [each for each in cursor.history if isinstance(each, PartsAdopted) and each.channel == channel]


def history() -> History:
    cursor = Cursor().adopt({"zh": (2, "a"), "en": (1, "b")})
    _, cursor = cursor.take(10, 8)
    cursor = cursor.quarantine("zh", "part-00001", {7: 30, 3: 12})
    _, cursor = cursor.take(2, 8)
    return cursor.adopt({"zh": (5, "c"), "en": (1, "b")}).quarantine("zh", "part-00001", {7: 30}, lift=True).history


def test_history_comes_back_from_json() -> None:
    cursor = Cursor(next_position=12, consumed_samples=12, history=history()).begin_phase(2)
    again = Cursor.from_json(json.loads(json.dumps(cursor.to_json())))
    assert again == cursor
    assert (again.phase, again.phase_begun_at) == (2, 12)
    assert phase_of(again.history[:-1]) == 0
    assert num_parts_of(again.history) == {"zh": 5, "en": 1}
    assert quarantined_in(again.history) == {("zh", "part-00001"): {3: 12}}
    assert quarantined_in(again.history[:3]) == {("zh", "part-00001"): {3: 12, 7: 30}}


def test_a_known_history_is_what_a_look_at_all_of_it_says() -> None:
    known = Cursor(history=history()).begin_phase(3).adopt({"en": (9, "d")}).history
    assert isinstance(known, KnownHistory)
    assert (known.phase, known.num_parts) == (phase_of(known), num_parts_of(known)) == (3, {"zh": 5, "en": 9})
    earlier = known.with_change(PartsAdopted(position=1, channel="code", num_parts=1, digest="e"))
    assert earlier.num_parts == {"zh": 5, "en": 9, "code": 1}
    again = pickle.loads(pickle.dumps(known))
    assert again == known
    assert hash(again) == hash(known) == hash(KnownHistory(tuple(known)))
    assert num_same(known, again) == len(known)
    assert num_same(known, earlier) == num_same(earlier, known) == 4
    assert num_same(known, known[:3]) == 3


def test_rollbacks_lie_beside_the_changes(tmp_path: Path) -> None:
    path = tmp_path / "order.jsonl"
    assert rollbacks_in_journal(path) == []
    first, second = RolledBack("a", ((32, 48),)), RolledBack("b", ((8, 8), (32, 48)))
    append_to_journal(path, [*history()[:2], first])
    append_to_journal(path, history()[2:])
    append_to_journal(path, [second])
    assert rollbacks_in_journal(path) == [first, second]
    assert set(read_journal(path)) == set(history())


@pytest.mark.parametrize(
    "fields",
    [{"order": "a"}, {"order": 1, "skip_windows": []}]
    + [{"order": "a", "skip_windows": windows} for windows in (7, [[32]], [[32, "48"]], [[32, 31]], [[32, True]])],
)
def test_a_rollback_that_is_none_is_damage(tmp_path: Path, fields: dict[str, object]) -> None:
    path = tmp_path / "order.jsonl"
    path.write_text(json.dumps({"kind": "rollback", **fields}) + "\n")
    with pytest.raises(CheckpointError, match="is damaged"):
        rollbacks_in_journal(path)


def test_adopting_what_is_used_already_changes_nothing() -> None:
    cursor = Cursor().adopt({"zh": (2, "a")})
    assert cursor.adopt({"zh": (2, "a")}) == cursor


def test_cursor_of_an_older_version_has_no_history() -> None:
    values = Cursor(next_position=3, consumed_samples=3).to_json()
    del values["history"]
    assert Cursor.from_json(values).history == ()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"kind": "phase"},
        {"kind": "other", "position": 0},
        {"kind": "phase", "position": 0, "phase": 1, "consumed_samples": -1},
        {"kind": "phase", "position": True, "phase": 1, "consumed_samples": 1},
        {"kind": "phase", "position": 0, "phase": 1, "consumed_samples": 0, "more": 1},
        {"kind": "parts", "position": 0, "channel": 1, "num_parts": 1, "digest": ""},
        {
            "kind": "quarantine",
            "position": 0,
            "channel": "zh",
            "part": "p",
            "documents": [2, 1],
            "tokens": [1, 1],
            "is_lifted": False,
        },
        {
            "kind": "quarantine",
            "position": 0,
            "channel": "zh",
            "part": "p",
            "documents": [1],
            "tokens": [],
            "is_lifted": False,
        },
    ],
)
def test_unreadable_history(change: object) -> None:
    with pytest.raises(
        CheckpointError, match="history of the order of the data in the checkpoint is unreadable: .* Res"
    ):
        history_from_json([change])  # type: ignore[list-item]


def test_history_out_of_order() -> None:
    first, *_, last = (change.to_json() for change in history())
    with pytest.raises(CheckpointError, match="rising positions"):
        history_from_json([last, first])


def test_changes_of_the_way_that_was_left_come_again_at_their_positions() -> None:
    begun = Cursor().adopt({"zh": (2, "a")})
    _, saved = begun.take(10, 8)
    _, there = saved.take(10, 8)
    there = there.begin_phase(1).adopt({"zh": (3, "b")})
    back = saved.with_changes(there.history)
    assert [change.position for change in back.history] == [0, 20]
    assert back.phase == 0
    assert back.with_changes(there.history) == back
    assert back.quarantine("zh", "p", {1: 2}).history[1].position == 10
    assert saved.passed(back.history) == saved
    assert replace_position(back, 20).passed(back.history).history == back.history


def test_what_is_done_on_the_way_again_stands_behind_what_is_known_to_come() -> None:
    begun = Cursor().adopt({"zh": (1, "a"), "en": (1, "a")})
    _, later = begun.take(20, 8)
    later = later.adopt({"zh": (2, "b")}).quarantine("zh", "p", {1: 10, 2: 10})
    _, back = begun.take(5, 8)
    back = back.with_changes(later.history)
    adopted = back.adopt({"zh": (3, "c"), "en": (2, "c")})
    assert [(each.position, each.num_parts) for each in adoptions_of(adopted, "zh")] == [
        (0, 1),
        (20, 2),
        (20, 3),
    ]
    assert [(each.position, each.num_parts) for each in adoptions_of(adopted, "en")] == [(0, 1), (5, 2)]
    assert num_parts_of(adopted.history) == {"zh": 3, "en": 2}
    lifted = back.quarantine("zh", "p", {1: 10}, lift=True)
    assert quarantined_in(lifted.history) == {("zh", "p"): {2: 10}}
    again = back.quarantine("zh", "p", {2: 10})
    assert quarantined_in(again.passed(again.history).history) == {("zh", "p"): {2: 10}}


def replace_position(cursor: Cursor, position: int) -> Cursor:
    return Cursor(next_position=position, consumed_samples=position, history=cursor.history)


def test_journal_holds_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "order.jsonl"
    assert read_journal(path) == ()
    changes = history()
    append_to_journal(path, changes[:2])
    append_to_journal(path, ())
    append_to_journal(path, changes[2:])
    assert read_journal(path) == changes
    assert len(path.read_text().splitlines()) == len(changes)


def test_what_a_crash_left_half_written_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "order.jsonl"
    changes = history()
    append_to_journal(path, changes[:1])
    with path.open("a") as file:
        file.write('{"kind": "par')
    assert read_journal(path) == changes[:1]
    append_to_journal(path, changes[1:])
    assert read_journal(path) == changes


def test_damaged_journal(tmp_path: Path) -> None:
    (tmp_path / "order.jsonl").write_text("broken\n")
    with pytest.raises(CheckpointError, match=r"order.jsonl is damaged: .* restore it, or move it away"):
        read_journal(tmp_path / "order.jsonl")


@pytest.mark.parametrize(
    ("num_parts", "reason"),
    [
        ((0,), r"line 1: parts.num_parts: Input should be greater than or equal to 1"),
        ((3, 2), "zh has 2 parts after 3"),
    ],
)
def test_parts_are_never_taken_away_again(tmp_path: Path, num_parts: tuple[int, ...], reason: str) -> None:
    lines = [
        {"kind": "parts", "position": 10 * place, "channel": "zh", "num_parts": number, "digest": "d"}
        for place, number in enumerate(num_parts)
    ]
    (tmp_path / "order.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(CheckpointError, match=f"order.jsonl is damaged: {reason}"):
        read_journal(tmp_path / "order.jsonl")
    with pytest.raises(CheckpointError, match="is unreadable"):
        history_from_json(lines)


def test_journal_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SaveFailedError, match="cannot write .*order.jsonl: No such file"):
        append_to_journal(tmp_path / "gone" / "order.jsonl", history())
