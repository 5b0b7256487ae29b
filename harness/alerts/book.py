"""The book of a run's alerts: what is open, what was told, and what waits to be delivered (pure).

One thing is one alert: while it lasts, it is told once, again if nobody acknowledges it, and when it is over. Messages
of one kind that do not page come at most once in `every_s`; those in between are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from harness.alerts.alert import Alert, Kind, Message, RunName, Severity, Word
from harness.config.quiet_hours import QuietHours
from harness.run.field_types import Count, Flag, Seconds, Text

MOST_WAITING = 200
"""Messages that wait to be delivered. More are not kept, those that matter least first."""
_MOST_IDS = 2000
_MOST_OPEN = 500
_GIVE_UP_AFTER_S = 86400.0
"""A place that has not taken a message for so long does not get it."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Times and limits of messages."""

    every_s: float = 600.0
    """Time in which at most one message of a kind that does not page is sent."""
    escalate_after_s: float | None = None
    """Time after which a page that nobody has acknowledged is sent again."""
    quiet_hours: QuietHours | None = None
    """Hours in which only pages are sent."""


class Thing(BaseModel):
    """An alert that is open."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    alert: Alert
    since: Seconds
    times: Count = 1
    """Number of times that it was seen."""
    is_told: Flag = False
    acknowledged: Text | None = None
    """The person who acknowledged it, and the time."""
    told_at: Seconds = 0.0
    """Time of the last message about it."""
    is_escalated: Flag = False
    """True if it was sent again because nobody had acknowledged it."""
    references: dict[str, str] = {}
    """Names that places have given to the first message, so that later ones can follow it there."""


class PlaceHealth(BaseModel):
    """The state of deliveries to one place."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    delivered: Seconds | None = None
    """Time of the last message that it took."""
    failing_since: Seconds | None = None
    """Time of the first failure since then."""
    problem: Text | None = None
    """The last problem."""
    not_before: Seconds = 0.0
    """Time before which it is not tried again."""


class Book(BaseModel):
    """All alerts of a run that are not over, and what waits to be delivered."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    number: Count = 0
    """Number of the last message."""
    ids: list[str] = []
    """Names of what was seen of late, oldest first, so that two processes do not tell the same."""
    things: dict[str, Thing] = {}
    """Open things, by key."""
    waiting: list[Message] = []
    places: dict[str, PlaceHealth] = {}
    sent: dict[str, Seconds] = {}
    """Time of the last message of each kind that does not page."""
    held_back: dict[str, Count] = {}
    """Number of things of each kind that were not told since then."""


@dataclass(frozen=True)
class Place:
    """A place that takes messages, without its address."""

    name: str
    least: Severity = Severity.INFO
    """It gets what matters as much, or more."""
    only_unacknowledged: bool = False
    """True if it gets only pages that nobody has acknowledged."""

    def wants(self, message: Message) -> bool:
        """Return whether a message is for this place."""
        if self.only_unacknowledged:
            return message.word == "unacknowledged"
        return message.alert.severity.is_at_least(self.least)


@dataclass
class Bookkeeping:
    """Enters what happens into the book of a run."""

    book: Book
    run: RunName
    rules: Rules
    places: Sequence[Place]
    now: float
    made: list[Message] = field(default_factory=list)
    """The messages that came of it."""

    def enter(self, alert: Alert, seen_id: str | None = None) -> bool:
        """Enter a thing; return False if `seen_id` was entered before."""
        book = self.book
        if seen_id is not None:
            if seen_id in book.ids:
                return False
            book.ids = [*book.ids, seen_id][-_MOST_IDS:]
        known = book.things.get(alert.key)
        if known is not None and alert.lasts:
            self._see_again(known, alert)
            return True
        book.things.pop(alert.key, None)
        thing = Thing(alert=alert, since=self.now)
        if alert.lasts:
            book.things[alert.key] = thing
            while len(book.things) > _MOST_OPEN:
                del book.things[next(iter(book.things))]
        self._tell(thing, "open")
        return True

    def end(self, key: str, text: str, step: int | None = None) -> bool:
        """Enter that a thing is over; return False if it was not open."""
        thing = self.book.things.pop(key, None)
        if thing is None:
            return False
        changed = {"text": f"{text}. It was: {thing.alert.text}", "step": step, "look": None}
        if thing.is_told:
            # Not held back: who was told that something is wrong is told that it is over.
            self._forget_untaken(thing)
            self._send(thing.model_copy(update={"alert": thing.alert.model_copy(update=changed)}), "over", 0)
        elif thing.alert.kind in self.book.held_back:
            self.book.held_back[thing.alert.kind] = max(0, self.book.held_back[thing.alert.kind] - 1)
        return True

    def acknowledge(self, keys: Sequence[str], who: str) -> list[str]:
        """Enter that somebody takes care of things; return the keys of those that were open."""
        found = [key for key in keys if key in self.book.things]
        for key in found:
            self.book.things[key].acknowledged = who
        return found

    def tend(self) -> None:
        """Enter what follows from the time: things that were held back, and pages that nobody has acknowledged."""
        for thing in list(self.book.things.values()):
            if not thing.is_told:
                self._tell(thing, "open", is_new=False)
            elif self._is_to_escalate(thing):
                thing.is_escalated = True
                self._send(thing, "unacknowledged", 0)
        self.book.waiting = [each for each in self.book.waiting if each.places and not self._is_too_old(each)]

    def _is_to_escalate(self, thing: Thing) -> bool:
        after_s = self.rules.escalate_after_s
        is_in_hands = thing.acknowledged is not None or thing.is_escalated
        if after_s is None or is_in_hands or thing.alert.severity is not Severity.PAGE:
            return False
        return not 0 <= self.now - thing.told_at < after_s

    def _is_too_old(self, message: Message) -> bool:
        return self.now - max(message.made, message.not_before) > _GIVE_UP_AFTER_S

    def _see_again(self, thing: Thing, alert: Alert) -> None:
        """Note that an open thing was seen again. Only if it matters more than before, a message follows."""
        before = thing.alert.severity
        thing.times += 1
        if not alert.severity.is_at_least(before):  # who was told of the worse is told that it is over
            return
        thing.alert = alert
        if alert.severity is not before:
            thing.acknowledged, thing.is_escalated = None, False
            self._send(thing, "again", 0)

    def _tell(self, thing: Thing, word: Word, *, is_new: bool = True) -> None:
        """Send a message, unless one of its kind was sent a short time ago."""
        book, kind = self.book, thing.alert.kind
        if thing.alert.severity is Severity.PAGE:
            self._send(thing, word, 0)
            return
        last = book.sent.get(kind)
        if last is not None and 0 <= self.now - last < self.rules.every_s:  # a clock that went back delays nothing
            book.held_back[kind] = book.held_back.get(kind, 0) + is_new
            return
        book.sent[kind] = self.now
        self._send(thing, word, max(0, book.held_back.pop(kind, 0) - (not is_new)))

    def _forget_untaken(self, thing: Thing) -> None:
        """Take messages about a thing back that no place has taken yet: that it is over says what it was."""
        about = [each for each in self.book.waiting if (each.alert.key, each.since) == (thing.alert.key, thing.since)]
        for message in about:
            if set(message.places) == {place.name for place in self.places if place.wants(message)}:
                self.book.waiting.remove(message)

    def _send(self, thing: Thing, word: Word, more: int) -> None:
        thing.is_told = True
        thing.told_at = self.now
        hours = self.rules.quiet_hours
        may_wait = thing.alert.severity is not Severity.PAGE and thing.alert.kind is not Kind.TEST
        self.book.number += 1
        message = Message(
            number=self.book.number,
            word=word,
            run=self.run,
            alert=thing.alert,
            made=round(self.now, 3),
            since=thing.since,
            more=more,
            references=thing.references,
            not_before=hours.end_of(self.now) if hours is not None and may_wait else 0.0,
        )
        message.places = tuple(place.name for place in self.places if place.wants(message))
        self.made.append(message)
        if message.places:
            self.book.waiting.append(message)
        while len(self.book.waiting) > MOST_WAITING:
            order = list(Severity)
            self.book.waiting.remove(min(self.book.waiting, key=lambda each: order.index(each.alert.severity)))


def due(book: Book, now: float, *, at_once: bool = False) -> list[tuple[Message, str]]:
    """Return the messages that can be sent now, oldest first, each with a place that has not taken it yet.

    With `at_once` also to places that refused a short time ago.
    """
    return [
        (message, name)
        for message in book.waiting
        if not 0 < message.not_before - now <= _GIVE_UP_AFTER_S
        for name in message.places
        if at_once or not 0 < book.places.get(name, PlaceHealth()).not_before - now <= _GIVE_UP_AFTER_S
    ]


def note_delivery(book: Book, number: int, name: str, now: float, reference: str | None = None) -> None:
    """Enter that a place has taken a message, which it calls `reference`."""
    book.places[name] = PlaceHealth(delivered=round(now, 3))
    for message in book.waiting:
        if message.number == number:
            message.places = tuple(each for each in message.places if each != name)
            thing = book.things.get(message.alert.key)
            if reference is not None and thing is not None:
                thing.references.setdefault(name, reference)
    book.waiting = [message for message in book.waiting if message.places]


def note_failure(book: Book, name: str, problem: str, now: float, retry_after_s: float) -> None:
    """Enter that a place has not taken a message."""
    health = book.places.get(name, PlaceHealth())
    book.places[name] = PlaceHealth(
        delivered=health.delivered,
        failing_since=health.failing_since if health.failing_since is not None else round(now, 3),
        problem=problem,
        not_before=now + retry_after_s,
    )
