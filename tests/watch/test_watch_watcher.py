"""What a watcher commands, and that it commands it once, whatever happens to it and to the files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from stand_in import ONSET, StandIn, keep, run_dir_in, watcher

from harness.alerts.book_file import read_book
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import Rollback
from harness.watch.watcher import Watcher

DIRTY = range(ONSET, ONSET + 60)


def go(run: StandIn, num_rounds: int, *, steps: int = 3) -> None:
    watching = watcher(run)
    for _ in range(num_rounds):
        run.train(steps)
        watching.look()
        keep(run, watching)


def test_dirty_documents_lead_to_one_rollback_that_skips_them(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY)
    go(run, 200)
    (rollback,) = run.commands(CommandKind.ROLLBACK)
    assert isinstance(rollback.request, Rollback)
    assert rollback.request.to_step == 260
    assert rollback.request.skip_steps == (ONSET - 5, ONSET + 74)
    assert rollback.source == f"watch-rollback-000-{ONSET:07d}.json"
    (attributed,) = run.events("attributed")
    assert attributed["dirty"]
    assert attributed["documents"][0]["part"] == "part-00003"
    assert set(attributed["documents"][0]["documents"]) <= {1000 + step for step in DIRTY}
    documents = attributed["documents"][0]
    assert documents["provenance"] == [
        f"raw/code/0.jsonl.gz:{1000 + number}  https://example.org/{number - 1000}"
        for number in documents["documents"][:20]
    ]
    assert run.attempt == 1
    assert len(run.events("spike")) >= 1


@pytest.mark.parametrize(("kept_every", "steps"), [(2, 4), (7, 1), (7, 5), (1000, 6)])
def test_a_watcher_that_is_killed_before_it_remembers_orders_nothing_twice(
    kept_every: int, steps: int, tmp_path: Path
) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY)
    keep(run, watcher(run))
    for number in range(450 // steps):
        run.train(steps)
        watching = watcher(run)  # killed after every look, and only sometimes after it has written its memory
        watching.look()
        if number % kept_every == 0:
            keep(run, watching)
    assert len(run.commands(CommandKind.ROLLBACK)) == 1
    evidence = [command.source for command in run.commands(CommandKind.EVIDENCE)]
    assert len(evidence) == len(set(evidence)) >= 1
    ids = [event["id"] for kind in ("suspect", "spike", "attributed") for event in run.events(kind)]
    assert len(ids) == len(set(ids))


def test_a_harmless_spike_is_left_alone(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 1))
    go(run, 200)
    assert run.commands(CommandKind.ROLLBACK) == []
    assert [event["direction"] for event in run.events("suspect")] != []
    assert run.events("benign") != []


def test_a_fall_on_documents_that_repeat_one_token_is_rolled_back_too(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY, height=-1.5)
    go(run, 150)
    (rollback,) = run.commands(CommandKind.ROLLBACK)
    assert rollback.reason == f"loss of code went down at step {ONSET}, on dirty documents"
    assert "90 % one token" in run.events("attributed")[0]["reason"]


def test_a_loss_that_is_not_finite_leads_to_one_rollback(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 1), height=float("nan"))
    go(run, 150)
    (rollback,) = run.commands(CommandKind.ROLLBACK)
    assert rollback.reason == f"loss of code is not finite at step {ONSET}"


def test_harder_data_that_do_not_look_like_dirt_are_kept(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY, height=0.6, looks_dirty=False)
    go(run, 150)
    assert not any(event["dirty"] for event in run.events("attributed"))
    assert run.commands(CommandKind.ROLLBACK) == []


def test_what_lasts_is_rolled_back_even_if_it_does_not_look_like_dirt(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 170), height=0.6, looks_dirty=False)
    go(run, 150)
    (rollback, *_) = run.commands(CommandKind.ROLLBACK)
    assert "and has not come back" in rollback.reason


def test_without_leave_to_roll_back_people_are_told_what_would_be_done(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY, changes={"action": "alert"})
    go(run, 150)
    assert {command.kind for command in run.carried_out} == {CommandKind.EVIDENCE, CommandKind.MARK}
    alerts = (run.run_dir.watch / "alerts.jsonl").read_text()
    assert (
        "With `watch.action: rollback` the watcher would return to step 260 and skip the samples of steps 296 to 375"
        in alerts
    )


def test_only_looking_gives_no_order_at_all(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 170))
    told: list[str] = []
    watching = watcher(run, may_command=False, told=told)
    for _ in range(150):
        run.train(3)
        watching.look()
    assert run.carried_out == []
    assert any("loss of code moved up" in text for text in told)
    assert run.events("rollback-ordered") == []
    assert any("has not come back: without --no-orders it would ask for a return to step" in text for text in told)


def test_a_used_up_budget_stops_the_run_for_a_person(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY, changes={"max_rollbacks": 0})
    go(run, 150)
    assert run.exit_code == 76
    (stop,) = run.commands(CommandKind.STOP_FOR_PERSON)
    assert "the budget of 0 rollbacks in 10000 steps is used up" in stop.reason


def test_checkpoints_are_suspect_around_a_spike_and_clean_when_it_has_passed(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 1))
    with run.run_dir.config.open("a") as config:
        config.write("checkpoint: {clean_after_steps: 200}\n")
    go(run, 120)
    assert run.healths()[320] == run.healths()[340] == "suspect"
    assert run.healths()[300] == run.healths()[360] == "clean"
    go(run, 100)
    assert set(run.healths().values()) == {"clean"}


def test_what_was_long_before_the_watcher_came_is_history(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY)
    run.train(600)
    go(run, 10)
    assert run.commands(CommandKind.ROLLBACK) == run.commands(CommandKind.EVIDENCE) == []
    assert not (run.run_dir.watch / "alerts.jsonl").exists()


@pytest.mark.parametrize("is_repeated", [True, False])
def test_a_spike_in_steps_that_a_start_repeats_is_not_one_right_after_a_resume(
    is_repeated: bool, tmp_path: Path
) -> None:
    """One start passes over the checkpoint of step 320 and is lost; the next one repeats what leads to it."""
    run = StandIn(
        run_dir_in(tmp_path), dirty=range(311, 322), height=0.6, looks_dirty=False, changes={"verify_steps": 20}
    )
    watching = watcher(run)
    for _ in range(100):
        run.train(3)
        watching.look()
    run.train(20)
    run.step, run.attempt = 300, 1
    run.event("resumed")
    run.train(2)
    watching.look()
    run.step, run.attempt = 320 if is_repeated else 300, 2
    run.event("resumed")
    run.step = 300
    go_on(run, watching, 100)
    assert len(run.commands(CommandKind.ROLLBACK)) == (0 if is_repeated else 1)


def go_on(run: StandIn, watching: Watcher, num_steps: int) -> None:
    for _ in range(num_steps):
        run.train(1)
        watching.look()


def test_broken_lines_and_files_that_are_replaced_disturb_nothing(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY)
    watching = watcher(run)
    for number in range(200):
        run.train(3)
        metrics = run.run_dir.metrics
        if number % 40 == 10:
            with metrics.open("a") as file:
                file.write('{"attempt": 0, "step": 99999, "ti\n\x07 nonsense\n')
        if number % 40 == 20:  # rotated away and restored: another file with the same lines
            content = metrics.read_bytes()
            metrics.unlink()
            metrics.write_bytes(content)
        if number % 40 == 30:  # half a line, and the rest of it later
            content = metrics.read_bytes()
            metrics.write_bytes(content[:-20])
            watching.look()
            metrics.write_bytes(content)
        watching.look()
    assert len(run.commands(CommandKind.ROLLBACK)) == 1


def test_an_order_that_was_withdrawn_is_waited_for_no_longer(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 400))
    watching = watcher(run)
    while watching.state.pending is None:
        run.train(1)
        watching.look()
    (waiting,) = run.run_dir.signals.glob("watch-rollback-*.json")
    waiting.unlink()
    run.train(1)
    watching.look()
    assert watching.state.pending is None
    assert "was withdrawn" in (run.run_dir.watch / "alerts.jsonl").read_text()


def test_events_of_watcher_and_trainer_stand_side_by_side(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=DIRTY)
    go(run, 150)
    events = [json.loads(line) for line in run.run_dir.events.read_text().splitlines()]
    assert {event["kind"] for event in events if event.get("by") == "watch"} >= {"suspect", "spike", "attributed"}
    assert all({"time", "kind", "attempt", "step"} <= event.keys() for event in events)


def test_people_hear_that_training_waits_for_data(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    told: list[str] = []
    watching = watcher(run, told=told)
    run.train(3)
    watching.look()
    run.event("waiting-for-parts", channels=["zh"])
    run.event("parts-refused", reason="channel zh: part-00001.bin has the hash 0")
    run.event("part-damaged", channel="zh", part="part-00002", reason="channel zh: part-00002.bin has the hash 1")
    watching.look()
    assert told == [
        "training waits for further parts, because no data is left in zh",
        "parts of the data were refused: channel zh: part-00001.bin has the hash 0",
        "a part of the data is damaged: channel zh: part-00002.bin has the hash 1",
    ]
    run.event("parts-came", channels="zh", seconds=61.5)
    watching.look()
    assert told[3:] == ["parts came, after 62 s"]
    alerts = [json.loads(line) for line in run.run_dir.watch_alerts.read_text().splitlines()]
    assert [(alert["key"], alert["state"]) for alert in (alerts[0], alerts[-1])] == [
        ("data-waits", "open"),
        ("data-waits", "over"),
    ]
    assert all(alert["step"] == run.step for alert in alerts)


def test_people_hear_that_a_save_failed_and_that_one_succeeded(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path))
    told: list[str] = []
    watching = watcher(run, told=told)
    run.train(3)
    watching.look()
    for _ in range(3):
        run.train(1)
        run.event("save-failed", reason="No space left on device")
        watching.look()
    run.event("saved", path="c", seconds=1.0)
    watching.look()
    alerts = [json.loads(line) for line in run.run_dir.watch_alerts.read_text().splitlines()]
    assert [(alert["kind"], alert["state"]) for alert in alerts] == [("save-failed", "open")] * 3 + [
        ("save-failed", "over")
    ]
    assert told[-1] == f"step {run.step} was saved"


@pytest.mark.parametrize("height", [3.0, math.inf])
def test_people_hear_that_a_spike_is_over(tmp_path: Path, height: float) -> None:
    run = StandIn(run_dir_in(tmp_path), dirty=range(ONSET, ONSET + 6), height=height, changes={"action": "alert"})
    watching = watcher(run)
    for _ in range(90):
        run.train(4)
        watching.look()
    alerts = [json.loads(line) for line in run.run_dir.watch_alerts.read_text().splitlines()]
    spikes = [(alert["key"], alert["state"]) for alert in alerts if alert["kind"] == "spike"]
    opened = {key for key, state in spikes if state == "open"}
    assert opened
    assert {key for key, state in spikes if state == "over"} == opened
    assert read_book(run.run_dir.alert_book).things.keys().isdisjoint(opened)
