"""Files of a run of millions of steps: who wants to know the last ones reads the end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from counted import instructions_of

from harness.run import events as events_module
from harness.run.event_base import StepEvent
from harness.run.event_types import Exit, Saved, Started
from harness.run.events import event_line, kinds_of, last_event, parse_event, read_events
from harness.run.follow import mark_of_last, new_lines
from harness.run.lines import offset_of_last
from harness.run.paths import RunDir
from harness.run.records import StepRecord, last_records, to_json_line
from harness.train.components.alarms import Alarms

FEW = 300


def record(step: int) -> StepRecord:
    return StepRecord(
        attempt=0,
        step=step,
        time=1700000000.0 + step,
        phase="main",
        consumed_samples=8 * step,
        consumed_tokens=128 * step,
        batch_hash=step,
        values={"train/lm_loss": 2.0},
    )


def metrics_of(folder: Path, num_steps: int) -> Path:
    path = folder / f"{num_steps}.jsonl"
    path.write_text("".join(to_json_line(record(step)) for step in range(1, num_steps + 1)))
    return path


def saved(step: int) -> Saved:
    return Saved(attempt=0, step=step, path=f"step_{step:07d}", seconds=1.0)


def events_of(folder: Path, events: list[StepEvent]) -> Path:
    path = RunDir(folder).events
    path.write_text("".join(event_line(event, 1700000000.0) + "\n" for event in events))
    return path


@pytest.mark.parametrize("end", ["\n", "", '{"half'], ids=["whole", "without the last end", "half a line"])
@pytest.mark.parametrize("number", [1, 2, 5, 6, 7, 1000])
def test_the_last_lines_are_found_from_the_end(tmp_path: Path, number: int, end: str) -> None:
    path = tmp_path / "lines"
    whole = [f"{'x' * length}\n" for length in (3, 0, 700_000, 1, 2_000_000, 4)]
    path.write_text("".join(whole).removesuffix("\n" if end == "" else "") + (end if end != "\n" else ""))
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    assert offset_of_last(path, number) == len(content) - len(b"".join(lines[-number:]))
    assert offset_of_last(tmp_path / "nothing", number) == 0


def test_the_last_records_cost_the_same_after_many_steps(tmp_path: Path) -> None:
    few, many = metrics_of(tmp_path, FEW), metrics_of(tmp_path, 16 * FEW)
    assert [each.step for each in last_records(many, 3)] == [16 * FEW - 2, 16 * FEW - 1, 16 * FEW]
    assert [each.step for each in last_records(tmp_path / "nothing", 3)] == []
    costs = [instructions_of(lambda path=path: list(last_records(path, 50))) for path in (few, many)]
    assert costs[1] < 1.05 * costs[0]


def test_who_follows_from_the_end_sees_each_later_line_once(tmp_path: Path) -> None:
    path = metrics_of(tmp_path, FEW)
    mark = mark_of_last(path, 10)
    assert len(list(new_lines(path, mark))) == 10
    with path.open("a") as file:
        file.write(to_json_line(record(FEW + 1)))
    assert len(list(new_lines(path, mark))) == 1
    assert mark_of_last(tmp_path / "nothing", 10).offset == 0


def test_the_last_event_of_a_kind_is_found_from_the_end(tmp_path: Path) -> None:
    end = Exit(attempt=0, step=2, exit_code=0, reason="done")
    wanted = kinds_of(Exit, Started)
    path = events_of(tmp_path, [Started(attempt=0, step=0), saved(1), end, *map(saved, range(3, 9))])
    found = last_event(path, wanted)
    assert isinstance(found, Exit)
    assert found.step == 2
    assert last_event(path, kinds_of(type(found))) == found
    assert last_event(tmp_path / "nothing", wanted) is None


def test_events_of_other_kinds_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = events_of(tmp_path, [Started(attempt=0, step=0), *map(saved, range(FEW))])
    parsed: list[bytes] = []
    original = events_module.parse_json
    monkeypatch.setattr(events_module, "parse_json", lambda line: parsed.append(line) or original(line))
    assert [event.kind for event in read_events(path, kinds=kinds_of(Started))] == ["started"]
    assert len(parsed) == 1
    assert parse_event(b'{"kind": "saved", "attempt": 0, "step": 1, "path": "p", "seconds": 1}', {"started"}) is None
    assert parse_event(b'{"kind": "started", "attempt": 0, "step": 1}', {"started"}) is not None


def test_alarms_cost_nothing_when_nothing_came(tmp_path: Path) -> None:
    def cost_of_a_second_look(number: int) -> int:
        folder = tmp_path / str(number)
        folder.mkdir()
        events_of(folder, list(map(saved, range(number))))
        alarms = Alarms(RunDir(folder))
        alarms.look()
        return instructions_of(alarms.look)

    assert cost_of_a_second_look(16 * FEW) < 1.05 * cost_of_a_second_look(FEW)


@pytest.fixture
def look_anew(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """Instructions of the first look of a watcher that begins anew, on a run with these metrics."""
    import stand_in

    from harness.watch import watcher as watcher_module

    monkeypatch.setattr(watcher_module, "MOST_HISTORY", 100)

    def cost(metrics: Path) -> int:
        folder = metrics.with_suffix("")
        folder.mkdir()
        run = stand_in.StandIn(RunDir(folder))
        run.run_dir.metrics.write_bytes(metrics.read_bytes())
        watcher = stand_in.watcher(run)
        count = instructions_of(watcher.look)
        assert watcher.state.step > 0
        return count

    return cost


def test_a_new_watcher_reads_the_end_of_a_long_run(tmp_path: Path, look_anew: Callable[[Path], int]) -> None:
    costs = [look_anew(metrics_of(tmp_path, number)) for number in (FEW, 16 * FEW)]
    assert costs[1] < 1.1 * costs[0]
