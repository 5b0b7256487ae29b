"""Who decides that people should know something tells the desk, and whoever then lives delivers it."""

from __future__ import annotations

import errno
import json
import multiprocessing
import time
from pathlib import Path

import pytest
from alert_samples import RUN, Clock, Inbox, alert, desk, lines

from harness import cli
from harness.alerts import book_file
from harness.alerts.alert import Kind, Severity
from harness.alerts.book import Place, Rules
from harness.alerts.book_file import delivering, read_book
from harness.alerts.desk import AlertDesk
from harness.alerts.trial import send_test
from harness.config.load import load_config
from harness.errors import UsageError
from harness.run.paths import RunDir

CHAT, PHONE = Place("chat"), Place("phone", least=Severity.PAGE)


def test_what_is_told_is_sent_and_written_down(tmp_path: Path) -> None:
    inbox, clock = Inbox(), Clock()
    here = desk(tmp_path, (CHAT, inbox), clock=clock)
    assert here.tell(alert(Kind.STALLED, lasts=True, step=7, look="harness diagnose R"))
    assert here.end("a", "it goes on", 9)
    assert not here.end("a", "it goes on")
    assert inbox.told == [("open", "it happened"), ("over", "it goes on. It was: it happened")]
    first, second = lines(here.run_dir)
    assert first == {
        "time": clock.now,
        "kind": "stalled",
        "severity": "page",
        "state": "open",
        "key": "a",
        "text": "it happened",
        "step": 7,
        "look": "harness diagnose R",
        "sent": True,
    }
    assert (second["state"], second["text"], second["step"], second["sent"]) == ("over", "it goes on", 9, True)


def test_what_nobody_takes_is_kept_for_whoever_lives_then(tmp_path: Path) -> None:
    phone, chat, clock = Inbox(), Inbox(), Clock()
    phone.is_down = True
    here = desk(tmp_path, (PHONE, phone), (CHAT, chat), clock=clock)
    here.tell(alert(Kind.FAILED, lasts=True))
    here.tell(alert(Kind.FAILED, key="b", text="another", lasts=True))
    assert (phone.tries, len(chat.messages)) == (1, 2)  # who refuses is not asked again at once
    assert [line["kind"] for line in lines(here.run_dir)] == ["failed", "undelivered", "failed"]
    here.tend()
    assert phone.tries == 1
    phone.is_down = False
    later = desk(tmp_path, (PHONE, phone), (CHAT, chat), clock=Clock(clock.now + 61))
    later.tend()
    assert phone.told == [("open", "it happened"), ("open", "another")]
    assert len(chat.messages) == 2
    assert read_book(here.run_dir.alert_book).waiting == []


def test_the_last_one_tries_at_once(tmp_path: Path) -> None:
    inbox, clock = Inbox(), Clock()
    inbox.is_down, inbox.retry_after_s = True, 3000.0
    here = desk(tmp_path, (CHAT, inbox), clock=clock)
    here.tell(alert())
    inbox.is_down = False
    here.deliver()
    assert inbox.messages == []
    here.tend(is_last=True)
    assert inbox.told == [("open", "it happened")]


def test_a_place_is_tried_again_when_it_says_so(tmp_path: Path) -> None:
    inbox, clock = Inbox(), Clock()
    inbox.is_down, inbox.retry_after_s = True, 5.0
    here = desk(tmp_path, (CHAT, inbox), clock=clock)
    here.tell(alert())
    inbox.is_down = False
    clock.now += 4
    here.deliver()
    assert inbox.messages == []
    clock.now += 1
    here.deliver()
    assert len(inbox.messages) == 1


def test_a_disk_that_is_full_keeps_nobody_from_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox, clock = Inbox(), Clock()
    here = desk(tmp_path, (CHAT, inbox), clock=clock)
    here.tell(alert(key="before", text="before"))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(book_file, "replace_file", full)
    for _ in range(3):
        assert here.tell(alert(Kind.SAVE_FAILED, text="the disk is full", lasts=True))
        clock.now += 30
    assert [text for _, text in inbox.told] == ["before", "the disk is full"]
    clock.now += 600
    here.tell(alert(Kind.SAVE_FAILED, text="the disk is full", lasts=True))
    assert len(inbox.told) == 3


def test_a_damaged_book_begins_anew_and_people_are_told(tmp_path: Path) -> None:
    inbox = Inbox()
    here = desk(tmp_path, (CHAT, inbox))
    here.tell(alert())
    for content in (b"{", b'{"format": 99}', b'{"format": 1, "book": {"number": "x"}}', b"\xff"):
        here.run_dir.alert_book.write_bytes(content)
        inbox.messages.clear()
        here.rules = Rules(every_s=0)
        here.tell(alert(text="next"))
        assert len(inbox.told) == 2
        assert "It begins anew" in inbox.told[0][1]
        assert inbox.told[1] == ("open", "next")
        assert (here.run_dir.watch / "alerts.json.unusable").read_bytes() == content


def test_one_process_delivers_at_a_time(tmp_path: Path) -> None:
    inbox = Inbox()
    here = desk(tmp_path, (CHAT, inbox))
    with delivering(here.run_dir) as may_deliver:
        assert may_deliver
        here.tell(alert())
        assert inbox.messages == []
    here.deliver()
    assert len(inbox.messages) == 1


def _tell_many(folder: str, number: int) -> None:
    here = desk(Path(folder), rules=Rules(every_s=0))
    for index in range(20):
        here.tell(alert(Kind.FAILED, key=f"{number}-{index}", lasts=True), f"id-{number}-{index}")
        here.tell(alert(Kind.FAILED, key="shared", lasts=True), f"shared-{index}")


def test_processes_that_tell_at_once_lose_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_tell_many, args=(str(tmp_path), number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    book = read_book(RunDir(tmp_path / "run").alert_book)
    assert len(book.things) == 61
    assert book.things["shared"].times == 20


def test_tending_often_costs_little(tmp_path: Path) -> None:
    here = desk(tmp_path)
    here.tend()
    before = here.run_dir.alert_book.exists()
    begun = time.perf_counter()
    for _ in range(1000):
        here.tend()
    assert not before  # nothing was written, because nothing happened
    assert time.perf_counter() - begun < 5


CONFIG = """\
run: {{name: small}}
model: {{num_layers: 4, hidden_size: 64, num_attention_heads: 8, ffn_hidden_size: 128, vocab_size: 1000}}
data: {{channels: {{zh: {{path: zh}}}}}}
phases: [{{name: main, train_steps: 10, seq_length: 32, global_batch_size: 64, blend: {{zh: 1}}}}]
optimizer: {{learning_rate: 3e-4}}
watch: {{alert_command: [{command}], quiet_hours: "00:00-23:59", escalate_after_s: 5}}
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run that was submitted, and whose alerts go to a file."""
    made = RunDir(tmp_path / "small-2")
    made.make_folders()
    made.launch(1).mkdir()
    made.config.write_text(CONFIG.format(command=f"tee, -a, {tmp_path / 'told'}"))
    return made


def test_the_desk_of_a_run_follows_its_configuration(run: RunDir, tmp_path: Path) -> None:
    here = AlertDesk.of(run, load_config(run.config), ["pagerduty://s3cr3t"])
    assert (here.run.name, here.run.folder) == ("small", str(run.root))
    assert [each.place.name.partition(" ")[0] for each in here.deliveries] == ["tee", "pagerduty"]
    assert "s3cr3t" not in str([each.place for each in here.deliveries])
    assert here.rules.escalate_after_s == 5
    assert AlertDesk.of(run, load_config(run.config), may_send=False).deliveries == ()
    AlertDesk.of(run, load_config(run.config)).tell(alert(Kind.FAILED))
    told = json.loads((tmp_path / "told").read_text())
    assert (told["run"], told["directory"], told["severity"]) == ("small", str(run.root), "page")


def test_a_test_message_goes_to_every_place_at_once(
    run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["watch", str(run.root), "--test-alert"]) == 0
    assert capsys.readouterr().out == "delivered to tee (command) (from info on)\n"
    assert json.loads((tmp_path / "told").read_text())["kind"] == "test"
    assert not run.watch_alerts.exists()
    run.config.write_text(CONFIG.format(command="/bin/false"))
    assert cli.run(["watch", str(run.root), "--test-alert"]) == 64
    assert (
        "1 of 1 places did not take the test message: false (command): /bin/false ended with 1"
        in capsys.readouterr().err
    )


def test_where_no_place_is_configured_a_test_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no place for alerts is configured; set watch.alert_urls_file"):
        send_test(desk(tmp_path), lambda text: None)


def test_people_acknowledge_what_is_open(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    here = AlertDesk(run_dir=run, run=RUN)
    here.tell(alert(Kind.FAILED, key="ended", lasts=True, text="gave up"))
    here.tell(alert(Kind.DISK, key="disk", lasts=True, text="full"))
    root = str(run.root)
    assert cli.run(["alerts", root]) == 0
    shown = capsys.readouterr().out
    assert "[page] ended since " in shown
    assert shown.splitlines()[0].endswith(": gave up")
    assert cli.run(["alerts", root, "--acknowledge", "nothing"]) == 64
    assert "no alert 'nothing' is open" in capsys.readouterr().err
    assert cli.run(["alerts", root, "--acknowledge", "ended"]) == 0
    assert capsys.readouterr().out == "acknowledged: ended\n"
    assert cli.run(["alerts", root, "--acknowledge", "all"]) == 0
    assert capsys.readouterr().out == "acknowledged: ended\nacknowledged: disk\n"
    assert cli.run(["alerts", root, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [thing["key"] for thing in found["open"]] == ["ended", "disk"]
    assert all(" at " in thing["acknowledged"] for thing in found["open"])


def test_without_alerts_it_says_so(run: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["alerts", str(run.root)]) == 0
    assert capsys.readouterr().out == "no alert is open\n"
    assert cli.run(["alerts", str(tmp_path / "nowhere")]) == 64
