"""One thing is one alert: told once, again if nobody cares, and when it is over."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from alert_samples import RUN, alert
from hypothesis import given
from hypothesis import strategies as st

from harness.alerts.alert import SEVERITIES, Alert, Kind, Message, Severity
from harness.alerts.book import MOST_WAITING, Book, Bookkeeping, Place, Rules, due, note_delivery, note_failure
from harness.config.quiet_hours import parse_quiet_hours

NOON = 1_800_014_400.0  # 2027-01-15 12:00 UTC
PHONE = Place("phone", least=Severity.PAGE)
CHAT = Place("chat")
BOSS = Place("boss", least=Severity.PAGE, only_unacknowledged=True)


def keeping(book: Book, now: float = NOON, **rules: Any) -> Bookkeeping:
    return Bookkeeping(book, RUN, Rules(**rules), (PHONE, CHAT, BOSS), now)


def told(book: Book, now: float = NOON) -> list[tuple[str, str, str]]:
    """Delivers everything that is due; returns what was told to whom."""
    found = []
    while pairs := due(book, now):
        message, place = pairs[0]
        found.append((place, message.word, message.alert.text))
        note_delivery(book, message.number, place, now)
    return found


def test_every_kind_has_one_severity() -> None:
    of_all = [kind for kinds in SEVERITIES.values() for kind in kinds]
    assert sorted(of_all) == sorted(Kind)


def test_a_thing_is_told_once_while_it_lasts_and_when_it_is_over() -> None:
    book = Book()
    for minute in range(30):
        keeping(book, NOON + 60 * minute).enter(alert(Kind.STALLED, lasts=True, text=f"{minute} min"))
    assert told(book) == [("phone", "open", "0 min"), ("chat", "open", "0 min")]
    assert book.things["a"].times == 30
    assert keeping(book, NOON + 1800).end("a", "it goes on")
    text = "it goes on. It was: 29 min"
    assert told(book) == [("phone", "over", text), ("chat", "over", text)]
    assert not keeping(book).end("a", "again")
    assert book.things == {}


def test_what_does_not_page_is_told_to_those_who_want_it() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.SPIKE))
    assert told(book) == [("chat", "open", "it happened")]


def test_what_two_processes_see_is_told_once() -> None:
    book = Book()
    assert keeping(book).enter(alert(Kind.FAILED, lasts=True), "ended-0003")
    assert not keeping(book).enter(alert(Kind.FAILED, lasts=True), "ended-0003")
    keeping(book).end("a", "trains")
    assert not keeping(book).enter(alert(Kind.FAILED, lasts=True), "ended-0003")
    assert [word for place, word, _ in told(book) if place == "phone"] == ["over"]


def test_of_a_kind_that_does_not_page_one_is_sent_in_some_minutes_and_the_others_are_counted() -> None:
    book = Book()
    for second in range(5):
        keeping(book, NOON + second).enter(alert(Kind.ORDER, key=f"k{second}", text=f"{second}"))
    keeping(book, NOON + 6).enter(alert(Kind.DATA, key="d", text="another kind"))
    assert [text for _, _, text in told(book)] == ["0", "another kind"]
    keeping(book, NOON + 601).enter(alert(Kind.ORDER, key="late", text="late"))
    (message,) = book.waiting
    assert (message.alert.text, message.more) == ("late", 4)
    assert "late (4 more of this kind since the last message)" in message.body
    told(book)
    keeping(book, NOON - 5000).enter(alert(Kind.ORDER, key="x", text="a clock that was set back delays nothing"))
    assert len(told(book)) == 1


def test_a_thing_that_was_held_back_and_lasts_is_told_later() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.SPIKE, key="first", text="first", lasts=True))
    keeping(book, NOON + 1).enter(alert(Kind.SPIKE, key="short", text="short", lasts=True))
    keeping(book, NOON + 1).enter(alert(Kind.SPIKE, key="long", text="long", lasts=True))
    keeping(book, NOON + 2).end("short", "back")
    keeping(book, NOON + 3).tend()
    assert [text for _, _, text in told(book)] == ["first"]
    keeping(book, NOON + 700).tend()
    (message,) = book.waiting
    assert (message.alert.text, message.more) == ("long", 0)
    assert told(book) == [("chat", "open", "long")]
    keeping(book, NOON + 701).end("long", "back")
    assert [word for _, word, _ in told(book)] == ["over"]


def test_pages_are_never_held_back() -> None:
    book = Book()
    for second in range(5):
        keeping(book, NOON + second).enter(alert(Kind.FAILED, key=f"k{second}", text=f"{second}"))
    assert [text for place, _, text in told(book) if place == "phone"] == ["0", "1", "2", "3", "4"]


def test_a_page_that_nobody_acknowledges_is_sent_once_more_and_to_those_for_escalation() -> None:
    book = Book()
    keeping(book, escalate_after_s=1800).enter(alert(Kind.FAILED, lasts=True))
    keeping(book, escalate_after_s=1800).enter(alert(Kind.HUNG, key="mine", lasts=True))
    told(book)
    assert keeping(book).acknowledge(["mine", "nothing"], "me") == ["mine"]
    keeping(book, NOON + 1799, escalate_after_s=1800).tend()
    assert told(book) == []
    for minutes in (30, 60, 600):
        keeping(book, NOON + 60 * minutes, escalate_after_s=1800).tend()
    assert [(place, word) for place, word, _ in told(book)] == [
        ("phone", "unacknowledged"),
        ("chat", "unacknowledged"),
        ("boss", "unacknowledged"),
    ]


def test_without_a_time_for_escalation_nothing_is_sent_again() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.FAILED, lasts=True))
    told(book)
    keeping(book, NOON + 1e6).tend()
    assert told(book, NOON + 1e6) == []


def test_a_thing_that_becomes_worse_is_told_again_and_a_thing_that_becomes_better_is_not() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.RESTART, text="comes back", lasts=True))
    keeping(book).acknowledge(["a"], "me")
    keeping(book).enter(alert(Kind.FAILED, text="gives up", lasts=True))
    keeping(book).enter(alert(Kind.RESTART, text="comes back after all", lasts=True))
    assert told(book) == [("chat", "open", "comes back"), ("phone", "again", "gives up"), ("chat", "again", "gives up")]
    assert book.things["a"].acknowledged is None


def test_what_does_not_last_takes_the_place_of_what_did() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.RESTART, text="comes back", lasts=True))
    keeping(book).enter(alert(Kind.FINISHED, text="finished"))
    assert [text for _, _, text in told(book)] == ["comes back", "finished"]
    assert book.things == {}


@pytest.mark.parametrize(
    ("hours", "moment", "end"),
    [
        ("22:00-07:00 UTC", NOON, 0.0),
        ("22:00-07:00 UTC", NOON + 11 * 3600, NOON + 19 * 3600),
        ("22:00-07:00 UTC", NOON + 18 * 3600, NOON + 19 * 3600),
        ("22:00-07:00 UTC", NOON + 19 * 3600, 0.0),
        ("11:00-13:00 UTC", NOON, NOON + 3600),
        ("19:00-21:00 Asia/Shanghai", NOON, NOON + 3600),
    ],
)
def test_quiet_hours_end(hours: str, moment: float, end: float) -> None:
    assert parse_quiet_hours(hours).end_of(moment) == end


def test_in_quiet_hours_only_pages_are_sent() -> None:
    book, hours = Book(), parse_quiet_hours("11:00-13:00 UTC")
    keeping(book, quiet_hours=hours).enter(alert(Kind.SPIKE, key="spike", text="spike"))
    keeping(book, quiet_hours=hours).enter(alert(Kind.FAILED, key="end", text="end"))
    assert told(book) == [("phone", "open", "end"), ("chat", "open", "end")]
    assert told(book, NOON + 3599) == []
    assert told(book, NOON + 3600) == [("chat", "open", "spike")]


def test_what_began_and_ended_in_quiet_hours_is_one_message() -> None:
    book, hours = Book(), parse_quiet_hours("11:00-13:00 UTC")
    keeping(book, quiet_hours=hours).enter(alert(Kind.SPIKE, text="up", lasts=True))
    keeping(book, NOON + 60, quiet_hours=hours).end("a", "back")
    assert told(book, NOON + 3600) == [("chat", "over", "back. It was: up")]


def test_a_place_that_fails_keeps_no_other_from_its_messages_and_gets_its_own_later() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.FAILED, lasts=True))
    note_failure(book, "phone", "refused", NOON, 60.0)
    assert told(book) == [("chat", "open", "it happened")]
    assert (book.places["phone"].failing_since, book.places["phone"].problem) == (NOON, "refused")
    note_failure(book, "phone", "refused again", NOON + 30, 60.0)
    assert book.places["phone"].failing_since == NOON
    assert told(book, NOON + 89) == []
    assert due(book, NOON + 89, at_once=True)
    assert told(book, NOON + 90) == [("phone", "open", "it happened")]
    assert book.places["phone"].failing_since is None
    assert book.waiting == []


def test_after_a_day_a_message_is_not_delivered_any_more_and_pages_are_kept_longest() -> None:
    book = Book()
    keeping(book).enter(alert(Kind.FAILED, lasts=True))
    keeping(book, NOON + 86400).tend()
    assert due(book, NOON + 86400)
    keeping(book, NOON + 86401).tend()
    assert due(book, NOON + 86401) == []
    for number in range(MOST_WAITING + 50):
        kind = Kind.FAILED if number < 50 else Kind.FINISHED
        keeping(book, NOON + 90000 + number).enter(alert(kind, key=f"k{number}"))
    assert len(book.waiting) <= MOST_WAITING
    assert sum(message.alert.kind is Kind.FAILED for message in book.waiting) == 50


def test_a_message_says_all_that_a_person_needs() -> None:
    what = Alert(key="spike-zh-7", kind=Kind.FAILED, text="gave up", step=1234, channel="zh", look="harness status R")
    message = Message(number=1, word="open", run=RUN, alert=what, made=2.0, since=1.0)
    assert message.in_one_text.splitlines() == [
        "[page] llama: failed",
        "gave up",
        "run: /runs/llama-2 (step 1,234, channel zh)",
        "look: harness status R",
        "acknowledge: harness alerts /runs/llama-2 --acknowledge spike-zh-7",
    ]
    fields = message.to_json()
    assert (fields["run"], fields["directory"]) == ("llama", "/runs/llama-2")
    assert {"kind", "severity", "state", "key", "step", "channel", "look", "what", "text", "since"} <= fields.keys()
    over = message.model_copy(update={"word": "over"})
    assert (over.title, over.to_json()["state"]) == ("[over] llama: failed", "over")
    assert "acknowledge" not in over.body


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "end", "tend", "deliver", "fail"]),
        st.sampled_from("abc"),
        st.sampled_from([Kind.FAILED, Kind.SPIKE, Kind.FINISHED, Kind.STALLED]),
        st.booleans(),
        st.integers(0, 900),
    ),
    max_size=60,
)


@given(ACTIONS)
def test_whatever_happens_who_was_told_of_a_page_hears_its_end_and_nothing_twice(
    actions: list[tuple[str, str, Kind, bool, int]],
) -> None:
    """After any sequence of events, read from the file in between: what the phone heard last of a thing is true."""
    book, now = Book(), NOON
    heard: dict[str, list[str]] = {}

    def deliver(moment: float) -> None:
        while pairs := [pair for pair in due(book, moment) if pair[1] == "phone"]:
            message, place = pairs[0]
            if message.alert.lasts:
                heard.setdefault(message.alert.key, []).append(message.word)
            note_delivery(book, message.number, place, moment)

    for action, key, kind, lasts, wait in actions:
        now += wait
        book = Book.model_validate(book.model_dump(mode="json"))
        if action == "deliver":
            deliver(now)
        else:
            happen(book, now, action, alert(kind, key=key, lasts=lasts))
    deliver(now + 60)
    for key in "abc":
        words, thing = heard.get(key, []), book.things.get(key)
        if thing is not None and thing.alert.severity is Severity.PAGE:
            assert words[-1] in ("open", "again"), words
        twice = [word for word, after in itertools.pairwise(words) if word == after and word != "open"]
        assert not twice, words


def happen(book: Book, now: float, action: str, what: Alert) -> None:
    if action == "enter":
        keeping(book, now).enter(what)
    elif action == "end":
        keeping(book, now).end(what.key, "over")
    elif action == "tend":
        keeping(book, now).tend()
    else:
        note_failure(book, "phone", "no", now, 60)
