from __future__ import annotations

import json

import pytest

from harness.run.commands.command import (
    MAX_REASON_LENGTH,
    Command,
    is_command_name,
    parse_command,
)
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import PLAIN_KINDS, Evidence, Mark, UnreadableCommandError, make_request


@pytest.mark.parametrize("kind", PLAIN_KINDS)
def test_an_empty_file_named_after_its_kind(kind: CommandKind) -> None:
    assert parse_command(kind.value, b"", "1") == Command(
        request=make_request(kind, {}), reason="", source=kind.value, id="1"
    )
    assert is_command_name(kind.value)


@pytest.mark.parametrize("kind", ["save", "stop", "save-and-stop"])
def test_json(kind: str) -> None:
    command = parse_command("x.json", f'{{"kind": "{kind}", "reason": "maintenance"}}'.encode(), "1")
    fingerprint = command.fingerprint
    assert len(fingerprint) == 16
    assert command == Command(
        request=make_request(CommandKind(kind), {}),
        reason="maintenance",
        source="x.json",
        id="1",
        fingerprint=fingerprint,
    )
    assert parse_command("x.json", f'{{"kind": "{kind}"}}'.encode(), "1").reason == ""


def test_text_in_a_plainly_named_file_is_the_reason_without_what_a_terminal_would_obey() -> None:
    assert (
        parse_command("save", b"before\nlunch \x1b[2J\xff\n", "1").reason
        == "before lunch  [2J\N{REPLACEMENT CHARACTER}"
    )
    assert len(parse_command("save", b"x" * 5000, "1").reason) == MAX_REASON_LENGTH


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "sav",
            b"",
            "'sav' is not a command; a command is an empty file named after its kind (save, stop, save-and-stop) or a "
            "file `….json`; did you mean `save`?",
        ),
        ("readme.txt", b"", "'readme.txt' is not a command; a command is an empty file named after its kind"),
        ("x.json", b"", "not JSON: Expecting value"),
        ("x.json", b"\xff", "not JSON: not UTF-8 at byte 0"),
        ("x.json", b"[" * 60_000, "not JSON: "),
        ("x.json", b'{"kind": "save"', "not JSON: Expecting"),
        ("x.json", b'["save"]', "not a JSON object"),
        ("x.json", b"{}", '"kind" is null; allowed: save, stop, save-and-stop'),
        ("x.json", b'{"kind": "Save"}', '"kind" is "Save"; allowed: save, stop, save-and-stop'),
        ("x.json", b'{"kind": ["save"]}', '"kind" is ["save"]; allowed'),
        ("x.json", b'{"kind": "save", "reason": 3}', '"reason" is 3; it must be text'),
        ("x.json", b'{"kind": "save", "step": 3}', 'unknown key "step"; allowed: "kind", "reason"'),
        ("x.json", b'{"kind": "evidence"}', '"steps" is None; it is a list of two whole numbers'),
        ("x.json", b'{"kind": "evidence", "steps": [4, 3]}', '"steps" is [4, 3]; it is [first, last], from 1 on'),
        ("x.json", b'{"kind": "evidence", "steps": [1, 65]}', '"steps" is [1, 65]; it is [first, last], from 1 on'),
        ("x.json", b'{"kind": "mark", "health": "clean"}', '"checkpoints" is None; it is a list of 1 to 1000'),
        ("x.json", b'{"kind": "mark", "checkpoints": ["../x"], "health": "clean"}', "\"checkpoints\" names '../x'"),
        (
            "x.json",
            b'{"kind": "mark", "checkpoints": ["step_0000001"], "health": "abandoned"}',
            '"health" is \'abandoned\'; allowed: "clean", "suspect"',
        ),
    ],
)
def test_what_is_no_order_is_refused_with_the_reason(name: str, content: bytes, text: str) -> None:
    with pytest.raises(UnreadableCommandError) as caught:
        parse_command(name, content, "1")
    assert str(caught.value).startswith(text)


def test_orders_for_evidence_and_marks_come_back_as_they_were_written() -> None:
    evidence = Evidence(steps=(117, 120))
    command = parse_command("x.json", json.dumps({"kind": "evidence", **evidence.to_json()}).encode(), "1")
    assert (command.kind, command.request) == (CommandKind.EVIDENCE, evidence)
    mark = Mark(checkpoints=("step_0000100", "step_0000200.2"), health="suspect")
    command = parse_command("x.json", json.dumps({"kind": "mark", **mark.to_json()}).encode(), "1")
    assert (command.kind, command.request) == (CommandKind.MARK, mark)
