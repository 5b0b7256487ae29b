"""Delivers an alert to people: by a command, a webhook of Feishu or DingTalk, or any service that apprise supports.

Addresses hold secrets. Error texts and logs show only the part of an address before `://`, or its host.
"""

from __future__ import annotations

import http.client
import importlib
import json
import os
import re
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.json_text import parse_json
from harness.run.lines import open_lines

Deliver = Callable[[str], None]
"""Delivers the text of an alert to one place. Raises `UndeliveredError`."""
_COMMAND_TIMEOUT_S = 30
_WEBHOOK_TIMEOUT_S = 10
_MOST_ADDRESS_BYTES = 256 * 1024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,19})://")
"""The first part of an address, which is no secret."""
_FEISHU_HOSTS = ("open.feishu.cn", "open.larksuite.com")
_DINGTALK_HOSTS = ("oapi.dingtalk.com",)


class UndeliveredError(Exception):
    """The alert was not delivered. The text gives the reason, without secrets."""


def deliveries(command: Sequence[str], urls_file: Path | None, more_urls: Sequence[str] = ()) -> list[Deliver]:
    """Return the deliveries to all places that are configured.

    Raises:
        UsageError: The file of addresses cannot be read, or others can read it; something in it is no address; or
            apprise is needed and not installed.
    """
    found: list[Deliver] = [_command(tuple(command))] if command else []
    given = [Address(f"alert address {number}", url) for number, url in enumerate(more_urls, start=1)]
    found += [_deliver_to(address) for address in (*_urls_in(urls_file), *given)]
    return [BoundedDelivery(deliver) for deliver in found]


@dataclass
class BoundedDelivery:
    """A delivery that blocks its caller for at most `patience_s` seconds, however slowly the place answers.

    It goes on in a thread. The next call with the same text returns its result. One delivery is under way at a time.
    """

    deliver: Deliver
    patience_s: float = 10.0
    _under_way: tuple[str, threading.Thread] | None = None
    _problem: str | None = None

    def __call__(self, text: str) -> None:
        """Deliver a text, or wait for the delivery that is under way.

        Raises:
            UndeliveredError: The text was not delivered, or not yet.
        """
        ends = time.monotonic() + self.patience_s
        while True:
            sent, thread = self._under_way or self._begin(text)
            thread.join(max(0.0, ends - time.monotonic()))
            if thread.is_alive():
                raise UndeliveredError(f"no answer within {self.patience_s:g} s")
            self._under_way = None
            if sent == text:
                break
        if self._problem is not None:
            raise UndeliveredError(self._problem)

    def _begin(self, text: str) -> tuple[str, threading.Thread]:
        thread = threading.Thread(target=self._run, args=(text,), name="alert", daemon=True)
        self._problem = None
        self._under_way = text, thread
        thread.start()
        return self._under_way

    def _run(self, text: str) -> None:
        try:
            self.deliver(text)
        except UndeliveredError as error:
            self._problem = str(error)
        except Exception as error:  # noqa: BLE001 (whatever a place answers, it must not end the watcher)
            self._problem = type(error).__name__  # its text may hold an address, and so a secret


def _urls_in(path: Path | None) -> list[Address]:
    """Return the addresses in a file that only its owner can read, one a line; lines with a # are remarks.

    Raises:
        UsageError: It cannot be read, or others can read it too.
    """
    if path is None:
        return []
    name = f"watch.alert_urls_file: {path}"
    try:
        with open_lines(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_ADDRESS_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"watch.alert_urls_file: cannot read {path}: {error.strerror}; it holds one address per line"
        ) from None
    if mode & 0o077:
        raise UsageError(
            f"{name} can be read or written by others (mode {mode:04o}), and addresses hold secrets. Close it with "
            f"`chmod 600 {path}`; if others have seen it, make new addresses"
        )
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8; it holds one address per line") from None
    if len(content) > _MOST_ADDRESS_BYTES:
        raise UsageError(f"{name} is larger than {_MOST_ADDRESS_BYTES >> 10} KiB; it holds one address per line")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [Address(f"{path}:{number}", line) for number, line in numbered if line and not line.startswith("#")]


class Address(NamedTuple):
    """An address of alerts. Messages name its place, since the address itself is a secret."""

    place: str
    url: str


def _deliver_to(address: Address) -> Deliver:
    """Return the delivery to an address.

    Raises:
        UsageError: It is not an address, or apprise is needed and not installed.
    """
    url = address.url
    scheme = _SCHEME.match(url)
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # its text may hold the address
        scheme = None
    if scheme is None or not url.isprintable():
        raise UsageError(
            f"{address.place}: not the address of a place for alerts, which begins with the kind of place, such as "
            "`slack://` or `https://`. It is not shown, because it may hold a secret"
        )
    if host in _FEISHU_HOSTS:
        return lambda text: _post(url, {"msg_type": "text", "content": {"text": text}}, "code")
    if host in _DINGTALK_HOSTS:
        return lambda text: _post(url, {"msgtype": "text", "text": {"content": text}}, "errcode")
    return _apprise(url, scheme[1])


def _command(command: tuple[str, ...]) -> Deliver:
    def run(text: str) -> None:
        line = json.dumps({"text": text}, ensure_ascii=False) + "\n"
        try:
            ended = subprocess.run(
                command, input=line.encode(), capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UndeliveredError(f"{command[0]}: {type(error).__name__}") from None
        if ended.returncode:
            raise UndeliveredError(f"{command[0]} ended with {ended.returncode}")

    return run


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: an alert is meant for the place that was configured."""

    def redirect_request(self, *arguments: Any) -> None:  # noqa: ANN401 (the library's signature)
        """Return None, so that the answer itself becomes the error."""
        del arguments


_OPENER = urllib.request.build_opener(_NoRedirects)


def _post(url: str, body: dict[str, Any], code_key: str) -> None:
    """Post JSON. Feishu and DingTalk answer HTTP 200 even if they refuse, so the code in the body is checked."""
    host = urlsplit(url).hostname
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with _OPENER.open(request, timeout=_WEBHOOK_TIMEOUT_S) as answer:
            fields = parse_json(answer.read(65536))
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise UndeliveredError(f"{host}: {type(error).__name__}") from None
    code = fields.get(code_key, fields.get("StatusCode")) if isinstance(fields, dict) else None
    if code != 0:
        raise UndeliveredError(f"{host} answered with code {code}")


def _apprise(url: str, scheme: str) -> Deliver:
    try:
        library = importlib.import_module("apprise")
    except ImportError:
        raise UsageError(
            f"an alert address that begins with {scheme}: needs the Python package apprise, which is not installed. "
            "Install the project with its `alerts` extra, or use watch.alert_command."
        ) from None
    sender = library.Apprise()
    if not sender.add(url):
        raise UsageError(f"apprise does not understand the alert address that begins with {scheme}:; see its manual")

    def notify(text: str) -> None:
        if not sender.notify(title="harness", body=text):
            raise UndeliveredError(f"{scheme}: apprise could not deliver it")

    return notify
