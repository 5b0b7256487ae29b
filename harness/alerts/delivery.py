"""Delivers a message to one place, for a limited time: to a command, or to any service that apprise supports.

Addresses hold secrets. Error texts and logs show only the part of an address before `://`, or its host.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.alerts.alert import Message, Severity
from harness.errors import UsageError

RETRY_S = 60.0
_COMMAND_TIMEOUT_S = 30
_APPRISE_TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.PAGE: "failure"}

Deliver = Callable[[Message], str | None]
"""Delivers a message to one place, and returns what the place calls it, if it says so. Raises `UndeliveredError`."""


class UndeliveredError(Exception):
    """The message was not delivered. The text gives the reason, without secrets."""

    def __init__(self, text: str, retry_after_s: float = RETRY_S) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s
        """Time after which the place may be tried again."""


@dataclass
class BoundedDelivery:
    """A delivery that blocks its caller for at most `patience_s` seconds, however slowly the place answers.

    It goes on in a thread. The next call with the same message returns its result. One delivery is under way at a time.
    """

    deliver: Deliver
    patience_s: float = 10.0
    _under_way: tuple[int, threading.Thread] | None = None
    _problem: UndeliveredError | None = None
    _reference: str | None = None

    def __call__(self, message: Message) -> str | None:
        """Deliver a message, or wait for the delivery that is under way.

        Raises:
            UndeliveredError: The message was not delivered, or not yet.
        """
        ends = time.monotonic() + self.patience_s
        while True:
            sent, thread = self._under_way or self._begin(message)
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                raise UndeliveredError(f"no answer within {self.patience_s:g} s")
            self._under_way = None
            if sent == message.number:
                break
        if self._problem is not None:
            raise self._problem
        return self._reference

    def _begin(self, message: Message) -> tuple[int, threading.Thread]:
        thread = threading.Thread(target=self._run, args=(message,), name="alert", daemon=True)
        self._problem = self._reference = None
        self._under_way = message.number, thread
        thread.start()
        return self._under_way

    def _run(self, message: Message) -> None:
        try:
            self._reference = self.deliver(message)
        except UndeliveredError as error:
            self._problem = error
        except Exception as error:  # noqa: BLE001 (whatever a place answers, it must not end the watcher)
            self._problem = UndeliveredError(type(error).__name__)  # its text may hold an address, and so a secret


def by_command(command: tuple[str, ...]) -> Deliver:
    """Return the delivery to a program, which gets the message as a line of JSON on standard input."""

    def run(message: Message) -> None:
        line = json.dumps(message.to_json(), ensure_ascii=False) + "\n"
        try:
            ended = subprocess.run(
                command, input=line.encode(), capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UndeliveredError(f"{command[0]}: {type(error).__name__}") from None
        if ended.returncode:
            raise UndeliveredError(f"{command[0]} ended with {ended.returncode}")

    return run


def by_apprise(url: str, scheme: str) -> Deliver:
    """Return the delivery by apprise to an address.

    Raises:
        UsageError: The package apprise is not installed, or does not understand the address.
    """
    try:
        library = importlib.import_module("apprise")
    except ImportError:
        raise UsageError(
            f"an alert address that begins with {scheme}: needs the Python package apprise, which is not installed. "
            "Install the project with its `alerts` extra, or use watch.alert_command."
        ) from None
    sender: Any = library.Apprise()
    with contextlib.redirect_stderr(io.StringIO()):  # it would write the address, and so a secret, to the log
        is_understood = sender.add(url)
    if not is_understood:
        raise UsageError(f"apprise does not understand the alert address that begins with {scheme}:; see its manual")

    def notify(message: Message) -> None:
        kind = "success" if message.word == "over" else _APPRISE_TYPES[message.alert.severity]
        if not sender.notify(title=message.title, body=message.body, notify_type=kind):
            raise UndeliveredError(f"{scheme}: apprise could not deliver it")

    return notify
