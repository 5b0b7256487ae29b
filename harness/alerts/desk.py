"""The desk of a run's alerts: whoever decides that people should know something tells it here.

What is new or sent is a line of `watch/alerts.jsonl`. What should reach people is kept in the book until every place
has taken it, whichever process then lives: the watcher, the last step of the job, or the next watcher.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from harness.alerts.addresses import Delivery, deliveries
from harness.alerts.alert import OVER_KINDS, Alert, Kind, Message, RunName
from harness.alerts.book import Book, Bookkeeping, Rules, due, note_delivery, note_failure
from harness.alerts.book_file import LostBookError, changing, delivering, read_book
from harness.alerts.delivery import UndeliveredError
from harness.alerts.looks import look_at
from harness.config.quiet_hours import parse_quiet_hours
from harness.config.schema import Config
from harness.run.files import append_lines
from harness.run.paths import RunDir

_TEND_EVERY_S = 5.0
_UNWRITTEN_EVERY_S = 600.0
_OTHER_DELIVERER_S = 15.0
"""Time to wait for another process that delivers, before leaving what waits to it."""


@dataclass
class AlertDesk:
    """Takes and delivers the alerts of one run."""

    run_dir: RunDir
    run: RunName
    deliveries: Sequence[Delivery] = ()
    rules: Rules = field(default_factory=Rules)
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""
    _tended: float | None = None
    _unwritten: dict[str, float] = field(default_factory=dict)
    """Time of the last message of each key that could not be written down."""

    @classmethod
    def of(cls, run_dir: RunDir, config: Config, more_urls: Sequence[str] = (), *, may_send: bool = True) -> AlertDesk:
        """Return the desk of a run, by its configuration; without places if nothing may be sent.

        Raises:
            UsageError: An address cannot be used.
        """
        settings = config.watch
        hours = None if settings.quiet_hours is None else parse_quiet_hours(settings.quiet_hours)
        found = deliveries(settings.alert_command, settings.alert_urls_file, more_urls) if may_send else ()
        return cls(
            run_dir=run_dir,
            run=RunName(name=config.run.name, folder=str(run_dir.root.absolute())),
            deliveries=found,
            rules=Rules(every_s=settings.alert_every_s, escalate_after_s=settings.escalate_after_s, quiet_hours=hours),
        )

    def tell(self, alert: Alert, seen_id: str | None = None) -> bool:
        """Enter a thing that people should know, and send what is due; return False if `seen_id` was told before.

        One that does not say where to look gets the command that belongs to its kind. What the disk does not take is
        sent all the same, at most once in ten minutes.

        Raises:
            UsageError: The folder of the watcher cannot be used.
        """
        if alert.look is None:
            alert = alert.model_copy(update={"look": look_at(alert.kind, self.run_dir, alert.step)})
        try:
            with self._keeping() as keeping:
                is_known = alert.lasts and alert.key in keeping.book.things
                if not keeping.enter(alert, seen_id):
                    return False
                is_sent = any(message.places for message in keeping.made)
                if is_sent or not is_known or seen_id is not None:  # what stands in no event is seen with every look
                    self._log(alert, "open", is_sent=is_sent)
        except OSError:
            self._tell_unwritten(alert)  # a full disk is what people must hear of
            return True
        self.deliver()
        return True

    def end(self, key: str, text: str, step: int | None = None) -> bool:
        """Enter that a thing is over; return False if it was not open.

        Raises:
            OSError: From the disk.
            UsageError: The folder of the watcher cannot be used.
        """
        if key not in self._book().things:
            return False
        with self._keeping() as keeping:
            thing = keeping.book.things.get(key)
            if thing is None:
                return False
            keeping.end(key, text, step)
            over = thing.alert.model_copy(update={"text": text, "step": step, "look": None})
            self._log(over, "over", is_sent=any(message.places for message in keeping.made))
        self.deliver()
        return True

    def tell_of_end(self, alert: Alert, seen_id: str) -> bool:
        """Enter that a run has ended, as `tell` does; nothing else that was open lasts longer than the run."""
        is_new = self.tell(alert, seen_id)
        if is_new and alert.kind in OVER_KINDS:
            for key in [key for key in self._book().things if key != alert.key]:
                self.end(key, "the run has ended")
        return is_new

    def open_keys(self, kind: Kind) -> list[str]:
        """Return the keys of the open things of a kind, oldest first."""
        return [key for key, thing in self._book().things.items() if thing.alert.kind is kind]

    def open_since(self, key: str) -> float:
        """Return the time at which an open thing began, in seconds since 1970; infinity if it is not open."""
        thing = self._book().things.get(key)
        return math.inf if thing is None else thing.since

    def tend(self, *, is_last: bool = False) -> None:
        """Send what is due by now: what was held back or waits, and pages that nobody has acknowledged.

        Call it often; it looks every few seconds. `is_last` if there will be no later call: then places that refused
        of late are tried at once.

        Raises:
            OSError: From the disk.
            UsageError: The folder of the watcher cannot be used.
        """
        now = time.monotonic()
        if not is_last and self._tended is not None and now - self._tended < _TEND_EVERY_S:
            return
        self._tended = now
        with self._keeping() as keeping:
            keeping.tend()
        self.deliver(is_last=is_last)

    def deliver(self, *, is_last: bool = False) -> None:
        """Send what waits to the places that have not taken it yet, once each.

        Raises:
            OSError: From the disk.
        """
        if not self.deliveries or not self._due(set(), is_last=is_last):
            return
        ends = time.monotonic() + (_OTHER_DELIVERER_S if is_last else 0.0)
        while True:
            with delivering(self.run_dir) as may_deliver:
                if may_deliver:
                    self._deliver_each(is_last=is_last)
                    return
            if time.monotonic() >= ends or not self._due(set(), is_last=is_last):
                return
            time.sleep(0.5)

    def _deliver_each(self, *, is_last: bool) -> None:
        by_name = {each.place.name: each.deliver for each in self.deliveries}
        tried: set[tuple[int, str]] = set()
        failed: set[str] = set()
        while True:
            found = [(m, name) for m, name in self._due(tried, is_last=is_last) if name not in failed]
            if not found:
                return
            message, name = found[0]
            tried.add((message.number, name))
            try:
                reference = by_name[name](message)
            except UndeliveredError as error:
                failed.add(name)
                self._note_failure(name, error)
            else:
                with changing(self.run_dir) as (book, _):
                    note_delivery(book, message.number, name, self.clock(), reference)

    def _due(self, tried: set[tuple[int, str]], *, is_last: bool) -> list[tuple[Message, str]]:
        """Return what can be sent now, without what was tried."""
        names = {each.place.name for each in self.deliveries}
        found = due(self._book(), self.clock(), at_once=is_last)
        return [(m, name) for m, name in found if name in names and (m.number, name) not in tried]

    def _note_failure(self, name: str, error: UndeliveredError) -> None:
        now = self.clock()
        with changing(self.run_dir) as (book, _):
            is_new = (known := book.places.get(name)) is None or known.failing_since is None
            note_failure(book, name, str(error), now, error.retry_after_s)
        if is_new:
            line = {"time": round(now, 3), "kind": "undelivered", "place": name, "text": f"{name}: {error}"}
            append_lines(self.run_dir.watch_alerts, [json.dumps(line, ensure_ascii=False)])

    @contextmanager
    def _keeping(self) -> Iterator[Bookkeeping]:
        """Yield the bookkeeping over the book, which is written at the end of the block."""
        with changing(self.run_dir) as (book, lost):
            places = [each.place for each in self.deliveries]
            keeping = Bookkeeping(book, self.run, self.rules, places, self.clock())
            if lost is not None:
                text = (
                    f"the book of alerts, {self.run_dir.alert_book}, {lost}. It begins anew: what was open may be told "
                    "again, and what was not delivered is only in alerts.jsonl"
                )
                keeping.enter(told := Alert(key="alert-book", kind=Kind.WATCHER, text=text))
                self._log(told, "open", is_sent=True)
            yield keeping

    def _book(self) -> Book:
        """Return the book as it is now; an empty one where it cannot be read."""
        try:
            return read_book(self.run_dir.alert_book)
        except (OSError, LostBookError):
            return Book()

    def _tell_unwritten(self, alert: Alert) -> None:
        """Send an alert that cannot be written down."""
        now = self.clock()
        last = self._unwritten.get(alert.key)
        if last is not None and 0 <= now - last < _UNWRITTEN_EVERY_S:
            return
        self._unwritten[alert.key] = now
        message = Message(number=0, word="open", run=self.run, alert=alert, made=round(now, 3), since=round(now, 3))
        for each in self.deliveries:
            if each.place.wants(message):
                with suppress(UndeliveredError):
                    each.deliver(message)

    def _log(self, alert: Alert, state: str, *, is_sent: bool) -> None:
        fields = {
            "time": round(self.clock(), 3),
            "kind": alert.kind,
            "severity": alert.severity,
            "state": state,
            "key": alert.key,
            "text": alert.text,
            "step": alert.step,
            "channel": alert.channel,
            "look": alert.look,
            "sent": is_sent,
        }
        line = {name: value for name, value in fields.items() if value is not None}
        append_lines(self.run_dir.watch_alerts, [json.dumps(line, ensure_ascii=False)])
