from __future__ import annotations

import pytest

from harness.signals.order import MAX_REASON_LENGTH, Order, OrderKind, UnreadableOrderError, is_order_name, parse_order


@pytest.mark.parametrize("kind", list(OrderKind))
def test_an_empty_file_named_after_its_kind(kind: OrderKind) -> None:
    assert parse_order(kind.value, b"", "1") == Order(kind=kind, reason="", source=kind.value, id="1")
    assert is_order_name(kind.value)


@pytest.mark.parametrize("kind", ["save", "stop", "save-and-stop"])
def test_json(kind: str) -> None:
    order = parse_order("x.json", f'{{"kind": "{kind}", "reason": "maintenance"}}'.encode(), "1")
    assert order == Order(kind=OrderKind(kind), reason="maintenance", source="x.json", id="1")
    assert parse_order("x.json", f'{{"kind": "{kind}"}}'.encode(), "1").reason == ""


def test_text_in_a_plainly_named_file_is_the_reason_without_what_a_terminal_would_obey() -> None:
    assert (
        parse_order("save", b"before\nlunch \x1b[2J\xff\n", "1").reason == "before lunch  [2J\N{REPLACEMENT CHARACTER}"
    )
    assert len(parse_order("save", b"x" * 5000, "1").reason) == MAX_REASON_LENGTH


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "sav",
            b"",
            "'sav' is no order; an order is an empty file named after its kind (save, stop, save-and-stop) or a file "
            "`….json`; did you mean `save`?",
        ),
        ("readme.txt", b"", "'readme.txt' is no order; an order is an empty file named after its kind"),
        ("x.json", b"", "not JSON: Expecting value"),
        ("x.json", b"\xff", "not JSON: 'utf-8' codec can't decode"),
        ("x.json", b"[" * 60_000, "not JSON: "),
        ("x.json", b'{"kind": "save"', "not JSON: Expecting"),
        ("x.json", b'["save"]', "not a JSON object"),
        ("x.json", b"{}", '"kind" is null; allowed: save, stop, save-and-stop'),
        ("x.json", b'{"kind": "Save"}', '"kind" is "Save"; allowed: save, stop, save-and-stop'),
        ("x.json", b'{"kind": ["save"]}', '"kind" is ["save"]; allowed'),
        ("x.json", b'{"kind": "save", "reason": 3}', '"reason" is 3; it must be text'),
        ("x.json", b'{"kind": "save", "step": 3}', 'unknown key "step"; allowed: "kind", "reason"'),
    ],
)
def test_what_is_no_order_is_refused_with_the_reason(name: str, content: bytes, text: str) -> None:
    with pytest.raises(UnreadableOrderError) as caught:
        parse_order(name, content, "1")
    assert str(caught.value).startswith(text)
