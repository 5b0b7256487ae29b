"""A message to every place, to see that alerts arrive."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from harness.alerts.alert import Alert, Kind, Message
from harness.alerts.delivery import UndeliveredError
from harness.alerts.desk import AlertDesk
from harness.errors import UsageError


def send_test(desk: AlertDesk, show: Callable[[str], None]) -> None:
    """Send a message to every place now, also to those for escalation, and show what came of it.

    Raises:
        UsageError: No place is configured, or one of them did not take the message.
    """
    if not desk.deliveries:
        raise UsageError(
            "no place for alerts is configured; set watch.alert_urls_file or watch.alert_command, or the environment "
            "variable HARNESS_ALERT_URLS"
        )
    text = f"a test from {socket.gethostname()}: alerts of this run arrive here"
    now = round(time.time(), 3)
    alert = Alert(key="test", kind=Kind.TEST, text=text)
    message = Message(number=0, word="open", run=desk.run, alert=alert, made=now, since=now)
    refused = []
    for each in desk.deliveries:
        name = each.place.name
        only = " (only for escalation)" if each.place.only_unacknowledged else f" (from {each.place.least} on)"
        try:
            each.deliver(message)
        except UndeliveredError as error:
            refused.append(f"{name}: {error}")
            show(f"not delivered to {name}: {error}")
        else:
            show(f"delivered to {name}{only}")
    if refused:
        count = f"{len(refused)} of {len(desk.deliveries)} places"
        raise UsageError(f"{count} did not take the test message: {'; '.join(refused)}")
