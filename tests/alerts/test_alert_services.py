"""Alerts at the services that people use, which answer as the real ones do: whatever they answer is understood."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from alert_samples import RUN, message
from services import Answer, Internet, Posted, internet, listening, ok

from harness.alerts import webhooks
from harness.alerts.addresses import deliveries
from harness.alerts.alert import Kind, Message
from harness.alerts.delivery import BoundedDelivery, UndeliveredError

SECRET = "s3cr3t"
FEISHU = f"https://open.feishu.cn/open-apis/bot/v2/hook/{SECRET}"
DINGTALK = f"https://oapi.dingtalk.com/robot/send?access_token={SECRET}"
PAGERDUTY = f"pagerduty://{SECRET}"
SLACK_BOT = f"slack://xoxb-{SECRET}/#runs"
SLACK_HOOK = "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"
TELEGRAM = "tgram://123456789:abcdefg_hijklmnop/12315544/"


def send(url: str, what: Message) -> str | None:
    (one,) = deliveries((), None, [url])
    return one.deliver(what)


def refusal_of(url: str, what: Message) -> UndeliveredError:
    with pytest.raises(UndeliveredError) as caught:
        send(url, what)
    assert SECRET not in str(caught.value)
    return caught.value


World = Callable[[Callable[[Posted], Answer]], Internet]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes an internet that answers as told."""
    managers = []

    def make(answer: Callable[[Posted], Answer]) -> Internet:
        manager = internet(tmp_path, monkeypatch, answer)
        managers.append(manager)
        return manager.__enter__()

    yield make
    for manager in managers:
        manager.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("url", "host", "agreement", "refusal", "reason"),
    [
        (FEISHU, "open.feishu.cn", {"code": 0}, {"code": 19021, "msg": "sign match fail"}, "code 19021"),
        (DINGTALK, "oapi.dingtalk.com", {"errcode": 0}, {"errcode": 310000, "errmsg": "no"}, "code 310000"),
        (
            SLACK_BOT,
            "slack.com",
            {"ok": True, "ts": "17.5"},
            {"ok": False, "error": "channel_not_found"},
            "channel_not",
        ),
        (PAGERDUTY, "events.pagerduty.com", {"status": "success"}, {"status": "invalid event"}, "invalid event"),
    ],
)
def test_a_service_that_refuses_with_http_200_is_heard(
    world: World, url: str, host: str, agreement: dict[str, Any], refusal: dict[str, Any], reason: str
) -> None:
    answers = [ok(refusal), (200, {}, b"not json"), (200, {}, b"[]"), ok(agreement)]
    seen = world(lambda posted: answers.pop(0))
    assert reason in str(refusal_of(url, message()))
    refusal_of(url, message())
    refusal_of(url, message())
    send(url, message())
    assert [posted.host for posted in seen.posted] == [host] * 4
    assert "it happened" in str(seen.posted[-1].body)
    assert RUN.folder in str(seen.posted[-1].body)


@pytest.mark.parametrize("url", [FEISHU, DINGTALK, SLACK_BOT, PAGERDUTY])
def test_a_service_says_when_to_come_again(world: World, url: str) -> None:
    answers = ["7", "100000", "soon", None]
    world(lambda posted: (429, {"Retry-After": after} if (after := answers.pop(0)) else {}, b""))
    waits = [refusal_of(url, message()).retry_after_s for _ in range(4)]
    assert waits == [7.0, 3600.0, 60.0, 60.0]


@pytest.mark.parametrize("url", [FEISHU, SLACK_BOT, PAGERDUTY, SLACK_HOOK])
def test_a_service_that_never_answers_is_waited_for_a_short_time(world: World, url: str) -> None:
    world(lambda posted: None)
    (one,) = deliveries((), None, [url])
    assert isinstance(one.deliver, BoundedDelivery)
    one.deliver.patience_s = 0.5
    begun = time.monotonic()
    with pytest.raises(UndeliveredError, match=r"no answer within 0\.5 s"):
        one.deliver(message())
    assert time.monotonic() - begun < 5


def test_an_incident_of_pagerduty_is_opened_updated_and_resolved_by_one_key(world: World) -> None:
    seen = world(lambda posted: ok({"status": "success"}, 202))
    page = message(Kind.FAILED, "the run has ended")
    send(PAGERDUTY, page)
    send(PAGERDUTY, page.model_copy(update={"word": "unacknowledged"}))
    send(PAGERDUTY, page.model_copy(update={"word": "over"}))
    opened, again, over = seen.bodies("events.pagerduty.com")
    assert {each["dedup_key"] for each in (opened, again, over)} == {f"{RUN.folder}:a"}
    assert [each["event_action"] for each in (opened, again, over)] == ["trigger", "trigger", "resolve"]
    assert opened["routing_key"] == SECRET
    assert opened["payload"]["severity"] == "critical"
    assert opened["payload"]["summary"] == "[page] llama: failed: the run has ended"
    assert opened["payload"]["custom_details"]["directory"] == RUN.folder
    assert "payload" not in over


def test_slack_keeps_a_thing_in_one_thread(world: World) -> None:
    seen = world(lambda posted: ok({"ok": True, "ts": "1700.5"}))
    first = send(SLACK_BOT, message())
    assert first is not None
    assert SECRET not in first
    send(SLACK_BOT, message(word="over", references={"slack (abc)": first, "another": "zzz:1"}))
    opened, over = seen.bodies("slack.com")
    assert (opened["channel"], opened.get("thread_ts")) == ("runs", None)
    assert (over["thread_ts"], over["reply_broadcast"]) == ("1700.5", False)
    assert seen.posted[0].headers["authorization"] == f"Bearer xoxb-{SECRET}"


@pytest.mark.parametrize(
    ("url", "host", "agreement", "refusal"),
    [
        (SLACK_HOOK, "hooks.slack.com", (200, {}, b"ok"), (404, {}, b"no_service")),
        (TELEGRAM, "api.telegram.org", ok({"ok": True, "result": {}}), ok({"ok": False, "error_code": 403}, 403)),
    ],
)
def test_what_apprise_knows_is_reached_through_it(
    world: World, url: str, host: str, agreement: Answer, refusal: Answer
) -> None:
    answers = [refusal, agreement]
    seen = world(lambda posted: answers.pop(0) if len(answers) > 1 else answers[0])
    scheme = url.partition(":")[0]
    assert str(refusal_of(url, message())) == f"{scheme}: apprise could not deliver it"
    send(url, message(Kind.FAILED, "the run has ended"))
    assert seen.posted[-1].host == host
    assert "the run has ended" in str(seen.posted[-1].body)
    assert "[page] llama: failed" in str(seen.posted[-1].body)


def test_a_certificate_of_somebody_else_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = world(lambda posted: ok({"code": 0}))
    monkeypatch.delenv("SSL_CERT_FILE")
    assert "open.feishu.cn: URLError" in str(refusal_of(FEISHU, message()))
    assert seen.posted == []


def test_an_alert_follows_no_redirection(world: World) -> None:
    seen = world(lambda posted: (302, {"Location": "https://elsewhere.example/"}, b""))
    assert "HTTP 302" in str(refusal_of(FEISHU, message()))
    assert [posted.host for posted in seen.posted] == ["open.feishu.cn"]


ODD_ANSWERS = {
    "what is no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "an answer that is cut off": b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{",
    "a chunk that is cut off": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "a bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{",
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    "an error": b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
    "not now": b"HTTP/1.1 429 Later\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    "a list": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    "much": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 10_000_000,
}


@pytest.mark.parametrize("name", ODD_ANSWERS)
def test_a_webhook_that_answers_oddly_is_one_that_took_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_FEISHU_HOSTS", ("127.0.0.1",))
    with listening(lambda connection: connection.sendall(ODD_ANSWERS[name])) as url:
        assert str(refusal_of(f"{url}/{SECRET}", message())).startswith("127.0.0.1")


@pytest.mark.skipif(sys.platform != "linux", reason="starts this Python")
def test_apprise_writes_no_address_to_a_log(tmp_path: Path) -> None:
    """It logs what it does not understand, and an address is a secret."""
    import subprocess

    code = (
        "from harness.alerts.addresses import deliveries\n"
        "from harness.errors import UsageError\n"
        f"try: deliveries((), None, ['odd://{SECRET}', ])\n"
        "except UsageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert "apprise does not understand the alert address that begins with odd:" in done.stdout, done.stderr
    assert SECRET not in done.stdout + done.stderr
