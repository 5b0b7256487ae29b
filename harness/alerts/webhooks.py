"""Posts messages to Feishu, DingTalk, PagerDuty and Slack, whose answers say more than an HTTP status.

Feishu, DingTalk and Slack answer HTTP 200 even if they refuse. PagerDuty and Slack keep all messages about a thing
together: an incident that resolves itself, and a thread.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from contextlib import suppress
from hashlib import blake2b
from typing import Any
from urllib.parse import urlsplit

from harness.alerts.alert import Message, Severity
from harness.alerts.delivery import RETRY_S, Deliver, UndeliveredError
from harness.json_text import parse_json

_TIMEOUT_S = 10
_MOST_ANSWER_BYTES = 65536
_LONGEST_WAIT_S = 3600.0
_FEISHU_HOSTS = ("open.feishu.cn", "open.larksuite.com")
_DINGTALK_HOSTS = ("oapi.dingtalk.com",)
_PAGERDUTY_EVENTS = "https://events.pagerduty.com/v2/enqueue"
_PAGERDUTY_SEVERITIES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.PAGE: "critical"}
_MOST_PAGERDUTY_SUMMARY = 1024
_SLACK_POST = "https://slack.com/api/chat.postMessage"
_SLACK_BOT = "xoxb-"


def native_delivery(url: str) -> Deliver | None:
    """Return the delivery to a service that is known here by its address; None for any other one."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host in _FEISHU_HOSTS:
        return lambda message: _post_text(url, {"msg_type": "text", "content": {"text": message.in_one_text}}, "code")
    if host in _DINGTALK_HOSTS:
        return lambda message: _post_text(url, {"msgtype": "text", "text": {"content": message.in_one_text}}, "errcode")
    if parts.scheme == "pagerduty" and "@" not in parts.netloc and parts.path in ("", "/"):
        return _pagerduty(parts.netloc)
    if parts.scheme == "slack" and parts.netloc.rpartition("@")[2].startswith(_SLACK_BOT) and parts.fragment:
        return _slack(parts.netloc.rpartition("@")[2], parts.fragment)
    return None


def _post_text(url: str, body: dict[str, Any], code_key: str) -> None:
    """Post to a service that says by a code in its answer whether it took the text."""
    fields = _post(url, body)
    code = fields.get(code_key, fields.get("StatusCode"))
    if code != 0:
        raise UndeliveredError(f"{urlsplit(url).hostname} answered with code {code}")


def _pagerduty(routing_key: str) -> Deliver:
    """Return the delivery to PagerDuty (Events API v2), where a thing is an incident."""

    def deliver(message: Message) -> None:
        folder, alert = message.run.folder, message.alert
        event: dict[str, Any] = {
            "routing_key": routing_key,
            "event_action": "resolve" if message.word == "over" else "trigger",
            "dedup_key": f"{folder}:{alert.key}"[:255],
        }
        if message.word != "over":
            event["client"] = f"harness {message.run.name}"
            event["payload"] = {
                "summary": f"{message.title}: {alert.text}"[:_MOST_PAGERDUTY_SUMMARY],
                "source": folder,
                "severity": _PAGERDUTY_SEVERITIES[alert.severity],
                "component": message.run.name,
                "class": alert.kind,
                "custom_details": message.to_json(),
            }
        if (status := _post(_PAGERDUTY_EVENTS, event).get("status")) != "success":
            raise UndeliveredError(f"events.pagerduty.com answered with status {status}")

    return deliver


def _slack(token: str, channel: str) -> Deliver:
    """Return the delivery by a Slack app's bot, which answers in the thread of the thing's first message."""
    mark = blake2b(f"{token}{channel}".encode(), digest_size=4).hexdigest() + ":"

    def deliver(message: Message) -> str | None:
        body: dict[str, Any] = {"channel": channel, "text": message.in_one_text}
        first = next((name for name in message.references.values() if name.startswith(mark)), None)
        if first is not None:
            body["thread_ts"] = first.removeprefix(mark)
            body["reply_broadcast"] = message.word != "over"
        fields = _post(_SLACK_POST, body, {"Authorization": f"Bearer {token}"})
        if fields.get("ok") is not True:
            raise UndeliveredError(f"slack.com answered with {str(fields.get('error'))[:100]}")
        stamp = fields.get("ts")
        return mark + stamp if isinstance(stamp, str) else None

    return deliver


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: an alert is meant for the place that was configured."""

    def redirect_request(self, *arguments: Any) -> None:  # noqa: ANN401 (the library's signature)
        """Return None, so that the answer itself becomes the error."""
        del arguments


def _open(request: urllib.request.Request) -> Any:  # noqa: ANN401 (the library's)
    """Open a request. Proxies and certificates are those of the environment at this moment."""
    return urllib.request.build_opener(_NoRedirects).open(request, timeout=_TIMEOUT_S)


def _post(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> dict[str, Any]:
    """Post JSON, and return the JSON object in the answer.

    Raises:
        UndeliveredError: There was no such answer. If the place says when to come again, so does the error.
    """
    host = urlsplit(url).hostname
    content = {"Content-Type": "application/json; charset=utf-8"}
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers=content | (headers or {}), method="POST"
    )
    try:
        with _open(request) as answer:
            fields = parse_json(answer.read(_MOST_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            raise UndeliveredError(f"{host} answered with HTTP {error.code}", _retry_after_s(error)) from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise UndeliveredError(f"{host}: {type(error).__name__}") from None
    if not isinstance(fields, dict):
        raise UndeliveredError(f"{host} answered with something else than a JSON object")
    return fields


def _retry_after_s(error: urllib.error.HTTPError) -> float:
    """Return the seconds after which the place wants to be asked again."""
    wanted = RETRY_S
    with suppress(ValueError, TypeError):
        wanted = float(error.headers.get("Retry-After", ""))
    return min(max(wanted, 1.0), _LONGEST_WAIT_S)
