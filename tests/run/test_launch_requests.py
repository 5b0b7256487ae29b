"""The command to kill a launch: of one launch, once, and heard even if it is damaged."""

from __future__ import annotations

from pathlib import Path

from harness.run.launch_requests import kill_reason, request_kill


def test_an_order_is_about_one_launch(tmp_path: Path) -> None:
    first, second = tmp_path / "0001", tmp_path / "0002"
    first.mkdir()
    second.mkdir()
    assert request_kill(first, "rank 3 is silent")
    assert kill_reason(first) == "rank 3 is silent"
    assert kill_reason(second) is None


def test_the_first_reason_stays(tmp_path: Path) -> None:
    assert request_kill(tmp_path, "one")
    assert not request_kill(tmp_path, "two")
    assert kill_reason(tmp_path) == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["kill.json"]


def test_an_order_that_cannot_be_read_is_one_all_the_same(tmp_path: Path) -> None:
    for text in ("", "[]", "{}", "\xff"):
        (tmp_path / "kill.json").write_text(text)
        assert kill_reason(tmp_path) == "requested, but the reason cannot be read"
