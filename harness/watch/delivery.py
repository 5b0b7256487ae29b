"""Takes an alert to people: through a command, a webhook of Feishu or DingTalk, or anything that apprise knows.

Addresses hold secrets: no error text and no log shows more of one than what stands before `://`, or its host.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.errors import UsageError

Deliver = Callable[[str], None]
"""Takes the text of an alert to one place; raises `UndeliveredError`."""
_COMMAND_TIMEOUT_S = 30
_WEBHOOK_TIMEOUT_S = 10
_FEISHU_HOSTS = ("open.feishu.cn", "open.larksuite.com")
_DINGTALK_HOSTS = ("oapi.dingtalk.com",)


class UndeliveredError(Exception):
    """Nobody took the alert; the text says why, without secrets."""


def deliveries(command: Sequence[str], urls_file: Path | None, more_urls: Sequence[str] = ()) -> list[Deliver]:
    """All places that are configured.

    Raises:
        UsageError: The file of addresses cannot be read, or apprise is needed and not installed.
    """
    found: list[Deliver] = [_command(tuple(command))] if command else []
    return found + [_address(url) for url in (*_urls_in(urls_file), *more_urls)]


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


def _post(url: str, body: dict[str, Any], code_key: str) -> None:
    """Posts JSON. Feishu and DingTalk answer HTTP 200 even when they refuse: the body's code tells."""
    host = urlsplit(url).hostname
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=_WEBHOOK_TIMEOUT_S) as answer:
            fields = json.loads(answer.read(65536))
    except (OSError, ValueError) as error:
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
