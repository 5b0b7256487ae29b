"""Where a run stands, as the watcher tells it: nobody is paged for a job that waits, and no end goes without a word."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from stand_in import CONFIG, StandIn, run_dir_in, watcher

from harness.alerts.alert import Alert, Kind, RunName
from harness.alerts.book_file import read_book
from harness.alerts.desk import AlertDesk
from harness.config.load import load_config
from harness.run.paths import RunDir
from harness.run_state.slurm_job import Life, SlurmJob
from harness.watch.daemon import watch
from harness.watch.standing import Standing, is_over_for_good


class Site:
    """A run as a job of Slurm, a watcher that looks at it, and a clock."""

    def __init__(self, folder: Path, **watch: Any) -> None:
        self.run = StandIn(run_dir_in(folder), changes={"stalled_after_s": 100, **watch})
        self.run_dir = self.run.run_dir
        self.launch = self.run_dir.launch(1)
        self.write("launch.json", {"job_id": "42", "submission": "0001", "world_size": 1})
        os.utime(self.launch / "launch.json", (1, 1))
        self.job = SlurmJob(job_id="42", life=Life.RUNS, word="RUNNING")
        self.now = 0.0
        self.desk = AlertDesk(run_dir=self.run_dir, run=RunName(name="r", folder="r"))
        self.standing = self.new_watcher()

    def new_watcher(self) -> Standing:
        return Standing(
            self.run_dir,
            self.run.config.watch,
            self.desk,
            show=lambda text: None,
            ask=lambda job_id: self.job,
            clock=lambda: self.now,
        )

    def write(self, name: str, fields: dict[str, Any]) -> None:
        (self.launch / name).write_text(json.dumps(fields))

    def beats(self, activity: str = "data") -> None:
        now = time.time()
        fields = {"rank": 0, "host": "n1", "pid": 1, "step": self.run.step, "phase": activity}
        self.run_dir.heartbeat(0).write_text(json.dumps(fields | {"since": now, "time": now, "spent_s": {}}))

    def becomes(self, life: Life, word: str = "", reason: str | None = None, restarts: int = 0) -> None:
        """Nobody trains any more, and Slurm says so of the job."""
        self.run.lock.release()
        self.run_dir.heartbeat(0).unlink(missing_ok=True)
        self.job = SlurmJob(job_id="42", life=life, word=word or life.upper(), reason=reason, restarts=restarts)

    def look(self, times: int = 1, every_s: float = 20.0) -> str | None:
        for _ in range(times):
            self.now += every_s
            state = self.standing.look()
        return None if state is None else state.word

    def told(self) -> list[tuple[str, str]]:
        path = self.run_dir.watch_alerts
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [(line["kind"], line["state"]) for line in lines]


@pytest.mark.parametrize(
    ("life", "word", "reason", "state"),
    [
        (Life.WAITS, "PENDING", "Priority", "requeued"),
        (Life.WAITS, "PENDING", "BeginTime", "requeued"),
        (Life.HELD, "PENDING", "JobHeldUser", "held"),
        (Life.SUSPENDED, "SUSPENDED", None, "held"),
        (Life.LEAVES, "COMPLETING", None, "ending"),
    ],
)
def test_nobody_is_paged_for_a_job_that_waits_however_long(
    tmp_path: Path, life: Life, word: str, reason: str | None, state: str
) -> None:
    site = Site(tmp_path)
    site.run.train(5)
    site.look()
    site.becomes(life, word, reason)
    assert site.look(times=1 if state == "ending" else 500, every_s=60) == state
    assert site.told() == []


def test_a_job_that_an_administrator_holds_is_a_page_once_and_the_release_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.becomes(Life.HELD, "PENDING", "JobHeldAdmin")
    site.look()
    assert site.told() == []  # seen once
    site.look(times=200)
    assert read_book(site.run_dir.alert_book).things["held"].times > 100
    site.becomes(Life.WAITS, "PENDING", "Priority")
    site.look(times=3)
    kinds = site.told()
    assert kinds[-1] == ("held", "over")
    assert {kind for kind, _ in kinds} == {"held"}


def test_a_job_that_slurm_lost_is_a_page_once_and_its_return_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run.train(5)
    site.look()
    site.becomes(Life.OVER, "NODE_FAIL")
    assert site.look() == "gone"
    assert site.told() == []
    site.look(times=50)
    assert site.told() == [("gone", "open")]
    site.run.lock.acquire()
    site.beats()
    site.look(times=2)
    assert site.told() == [("gone", "open")]  # it has not made a step yet
    site.run.train(1)
    site.look(times=2)
    assert site.told() == [("gone", "open"), ("gone", "over")]


def test_a_run_that_ended_is_told_once_whoever_saw_it_first(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.becomes(Life.OVER, "COMPLETED")
    site.write("ended.json", {"exit_code": 0, "action": "stop", "alert": False, "reason": "finished"})
    assert site.look(times=5) == "finished"
    site.standing = site.new_watcher()
    site.look(times=5)
    assert site.told() == [("finished", "open")]
    assert read_book(site.run_dir.alert_book).things == {}


def test_a_run_that_gave_up_is_a_page_if_nobody_told_yet(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.becomes(Life.OVER, "FAILED")
    site.write("ended.json", {"exit_code": 70, "action": "stop", "alert": True, "reason": "gave up"})
    site.look(times=5)
    assert site.told() == [("failed", "open")]


def test_a_run_that_makes_no_step_is_a_page_once_and_the_next_step_is_told(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run.train(5)
    site.beats()
    site.look(times=4)
    assert site.told() == []
    site.look(times=60)
    assert {kind for kind, _ in site.told()} == {"stalled"}
    assert (
        read_book(site.run_dir.alert_book)
        .things["no-progress"]
        .alert.text.startswith("nothing has been recorded for 1")
    )
    site.run.train(1)
    site.beats()
    site.look()
    assert site.told()[-1] == ("stalled", "over")


def test_a_look_alone_sees_a_standstill_by_the_times_in_the_files(tmp_path: Path) -> None:
    run = StandIn(run_dir_in(tmp_path), changes={"stalled_after_s": 900}, begun=time.time() - 800)
    run.train(5)

    def told() -> list[tuple[str, str]]:
        watch(run.run_dir, once=True, may_command=True, alert_urls=(), show=lambda _text: None)
        file = run.run_dir.watch_alerts
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [(line["kind"], line["state"]) for line in lines]

    assert told() == []
    run.begun -= 200
    run.train(1)
    assert told() == told() == [("stalled", "open")]
    run.begun = time.time()
    run.train(1)  # which is recorded as of some seconds later
    assert told() == [("stalled", "open"), ("stalled", "over")]


def test_the_time_in_the_queue_does_not_count_as_standing_still(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run.train(5)
    site.look()
    site.becomes(Life.WAITS, "PENDING", "Priority")
    site.look(times=100, every_s=60)
    site.job = SlurmJob(job_id="42", life=Life.RUNS, word="RUNNING", restarts=1)
    assert site.look(times=4) == "starting"
    assert site.told() == []
    site.look(times=10)
    assert {kind for kind, _ in site.told()} == {"stalled"}


def test_a_watcher_goes_by_its_own_clock(tmp_path: Path) -> None:
    """Whatever the clocks of the nodes say: here the records are of 1970."""
    site = Site(tmp_path)
    site.run.train(5)
    site.beats()
    site.look(times=5)
    assert site.told() == []
    site.look()
    assert {kind for kind, _ in site.told()} == {"stalled"}


def test_where_slurm_does_not_answer_nobody_is_paged(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.run.train(5)
    site.look()
    site.becomes(Life.OVER)
    site.standing.ask = lambda job_id: None
    assert site.look(times=100) == "unknown"
    assert site.told() == []


@pytest.mark.parametrize(
    ("ended", "life", "is_over"),
    [
        ({"exit_code": 0, "action": "stop"}, Life.OVER, True),
        ({"exit_code": 70, "action": "stop", "alert": True}, Life.OVER, True),
        ({"exit_code": 75, "action": "requeue"}, Life.WAITS, False),
        ({"exit_code": 75, "action": "stop"}, Life.OVER, False),
        (None, Life.OVER, True),
        (None, Life.CANCELLED, True),
        (None, Life.WAITS, False),
        (None, Life.HELD, False),
    ],
)
def test_the_watcher_leaves_when_nothing_more_will_happen(
    tmp_path: Path, ended: dict[str, Any] | None, life: Life, is_over: bool
) -> None:
    site = Site(tmp_path)
    site.becomes(life)
    if ended is not None:
        site.write("ended.json", ended)
    state = site.standing.look()
    assert state is not None
    assert is_over_for_good(state) == is_over


def test_a_watcher_may_be_started_before_the_job_is(tmp_path: Path) -> None:
    """The configuration is then that of the submission."""
    import yaml

    run_dir = RunDir(tmp_path / "run")
    folder = run_dir.launch(1)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "submission.json").write_text('{"job_id": "42", "nodes": 1, "workers_per_node": 1}')
    told: list[str] = []
    watch(run_dir, once=True, may_command=True, alert_urls=(), show=told.append)
    assert told == [f"watching {run_dir.root}: rolling back by itself (watch.action: rollback)"]
    assert load_config(folder / "config.yaml").run.name == "stand-in"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_in_a_week_without_trouble_nobody_is_told_anything(tmp_path: Path, seed: int) -> None:
    """A week of a run, looked at every twenty seconds: launches of a day that end at their time limit, and wait."""
    site = Site(tmp_path, stalled_after_s=900)
    day, launch = 86400, 1
    watching = watcher(site.run)
    for second in range(0, 7 * day, 20):
        at = (second + 977 * seed) % day
        if at < 20 and second:
            site.write("ended.json", {"exit_code": 75, "action": "requeue", "reason": "time limit"})
            site.becomes(Life.WAITS, "PENDING", "BeginTime", restarts=launch - 1)
        elif 3600 <= at < 3620 and site.job.life is Life.WAITS:
            launch += 1
            site.launch = site.run_dir.launch(launch)
            site.launch.mkdir()
            site.write("launch.json", {"job_id": "42", "submission": "0001", "world_size": 1})
            site.job = SlurmJob(job_id="42", life=Life.RUNS, word="RUNNING", restarts=launch - 1)
        elif 3900 <= at < 3920 and site.run.lock.descriptor is None:
            site.run.lock.acquire()
        if site.run.lock.descriptor is not None and second % 200 == 0:
            site.run.train(1)
            watching.look()
        if at < 60 or 3500 < at < 4500 or second % 600 == 0:
            site.now = second
            site.standing.look()
    assert launch >= 7
    assert site.run.step > 2000
    assert site.told() == []


@pytest.mark.parametrize("jump_s", [-86400.0, -60.0, 60.0, 86400.0])
def test_a_clock_that_jumps_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_s: float) -> None:
    """The watcher's clock is set, and for some seconds all heartbeats are of another time."""
    site = Site(tmp_path)
    site.run.train(5)
    site.beats()
    site.look(times=2)
    right = time.time
    for module in ("harness.run_state.facts", "harness.alerts.desk"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(time=lambda: right() + jump_s, monotonic=time.monotonic))
    site.desk.clock = lambda: right() + jump_s
    for _ in range(20):
        site.run.train(1)
        site.look()
    site.becomes(Life.RUNS, "RUNNING")  # a lock that cannot be seen from here
    site.write("ended.json", {"exit_code": 75, "action": "requeue"})
    site.look(times=3)
    assert site.told() == []


def test_what_was_open_is_over_when_the_run_has_ended(tmp_path: Path) -> None:
    site = Site(tmp_path)
    for kind, key in ((Kind.STALLED, "no-progress"), (Kind.SPIKE, "spike-zh-7"), (Kind.DISK, "disk")):
        site.desk.tell(Alert(key=key, kind=kind, text="x", lasts=True))
    site.becomes(Life.OVER, "COMPLETED")
    site.write("ended.json", {"exit_code": 0, "action": "stop", "alert": False, "reason": "finished"})
    site.look(times=3)
    assert read_book(site.run_dir.alert_book).things == {}
    assert site.told()[3:] == [("finished", "open"), ("stalled", "over"), ("spike", "over"), ("disk", "over")]
