from __future__ import annotations

import json

import pytest

from harness.run.commands.command import parse_command
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import MAX_DOCUMENTS, Quarantine, UnreadableCommandError


def test_order_about_documents() -> None:
    fields = {"kind": "quarantine", "documents": {"zh/part-00007": [5, 3, 5], "en/p": [0]}, "reason": "garbled"}
    command = parse_command("x.json", json.dumps(fields).encode(), "1")
    assert (command.kind, command.reason) == (CommandKind.QUARANTINE, "garbled")
    assert command.request == Quarantine(documents={"zh/part-00007": (3, 5), "en/p": (0,)})
    assert command.request.to_json() == {"documents": {"zh/part-00007": [3, 5], "en/p": [0]}}
    again = parse_command("x.json", json.dumps({"kind": "quarantine", **command.request.to_json()}).encode(), "1")
    assert again.request == command.request


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, '"documents" is None; it is an object such as {"zh/part-00007": [8812, 8813]}'),
        ({"documents": [1]}, '"documents" is [1]; it is an object'),
        ({"documents": {"zh": [1]}}, '"documents" names \'zh\'; a part is named like "zh/part-00007"'),
        ({"documents": {"a/b/c": [1]}}, "\"documents\" names 'a/b/c'"),
        ({"documents": {"zh/p": []}}, '"documents" has [] for zh/p; it is a list of whole numbers from 0 on'),
        ({"documents": {"zh/p": [True]}}, '"documents" has [True] for zh/p'),
        ({"documents": {"zh/p": [-1]}}, '"documents" has [-1] for zh/p'),
        ({"documents": {"zh/p": [1]}, "lift": 1}, '"lift" is 1; it is true or false'),
        ({"documents": {"zh/p": list(range(MAX_DOCUMENTS + 1))}}, "names more than 100,000 documents; give several"),
    ],
)
def test_orders_that_say_nothing_clear(fields: dict[str, object], text: str) -> None:
    with pytest.raises(UnreadableCommandError) as error:
        parse_command("x.json", json.dumps({"kind": "quarantine", **fields}).encode(), "1")
    assert text in str(error.value)
