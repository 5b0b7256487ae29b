"""Delivers an alert to people: by a command, a webhook of Feishu or DingTalk, or any service that apprise supports.

Addresses hold secrets. Error texts and logs show only the part of an address before `://`, or its host.
"""

from __future__ import annotations

import http.client
import importlib
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UsageError
from harness.json_text import parse_json

Deliver = Callable[[str], None]
"""Delivers the text of an alert to one place. Raises `UndeliveredError`."""
_COMMAND_TIMEOUT_S = 30
_WEBHOOK_TIMEOUT_S = 10
_FEISHU_HOSTS = ("open.feishu.cn", "open.larksuite.com")
_DINGTALK_HOSTS = ("oapi.dingtalk.com",)


class UndeliveredError(Exception):
    """The alert was not delivered. The text gives the reason, without secrets."""


def deliveries(command: Sequence[str], urls_file: Path | None, more_urls: Sequence[str] = ()) -> list[Deliver]:
    """Return the deliveries to all places that are configured.

    Raises:
        UsageError: The file of addresses cannot be read, or apprise is needed and not installed.
    """
    found: list[Deliver] = [_command(tuple(command))] if command else []
    found += [_address(url) for url in (*_urls_in(urls_file), *more_urls)]
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


def _urls_in(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UsageError(
            f"watch.alert_urls_file: cannot read {path}: {error.strerror}; it holds one address per line"
        ) from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _address(url: str) -> Deliver:
    host = urlsplit(url).hostname or ""
    if host in _FEISHU_HOSTS:
        return lambda text: _post(url, {"msg_type": "text", "content": {"text": text}}, "code")
    if host in _DINGTALK_HOSTS:
        return lambda text: _post(url, {"msgtype": "text", "text": {"content": text}}, "errcode")
    return _apprise(url)


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


def _apprise(url: str) -> Deliver:
    scheme = url.split(":", 1)[0][:20]
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
