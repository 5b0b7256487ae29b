"""Runs every block of docs/data_order.md, compares what it prints, and holds its samples against the plain order."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plain_order import PlainOrder

PAGE = Path(__file__).parents[2] / "docs" / "data_order.md"
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)
Token = tuple[int, int, int]


def run_page() -> tuple[dict[str, Any], str, str]:
    """The names that the page defines, what its blocks print, and what it says that they print."""
    namespace: dict[str, Any] = {}
    printed, shown = io.StringIO(), ""
    for kind, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "text":
            shown += text
            continue
        with contextlib.redirect_stdout(printed):
            exec(compile(text, str(PAGE), "exec"), namespace)
    return namespace, printed.getvalue(), shown


def tokens_of(shown: str) -> Iterator[tuple[str, int, list[Token]]]:
    """Channel, epoch and tokens of the samples in lines that `show` printed."""
    for line in shown.splitlines():
        if found := re.fullmatch(r" ?\d+ (\w+) part-(\d+) epoch (\d+) index \d+: (.*)", line):
            channel, part, epoch, pieces = found.groups()
            spans = re.findall(r"(\d+)\[(\d+):(\d+)\]", pieces)
            tokens = [
                (int(part), int(document), place)
                for document, first, behind in spans
                for place in range(int(first), int(behind))
            ]
            yield channel, int(epoch), tokens


def test_the_page_prints_what_it_shows_and_the_plain_order_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page, printed, shown = run_page()
    assert printed == shown
    texts = {name: [[np.arange(n) for n in part] for part in parts] for name, parts in page["LENGTHS"].items()}
    num_parts = {name: len(parts) for name, parts in texts.items()}
    samples = list(tokens_of(printed))
    assert len(samples) == 24
    undisturbed = PlainOrder(texts, page["recipe"], num_parts)
    changed = PlainOrder(texts, page["recipe"], num_parts)
    for number, (plain, sample) in enumerate(zip([undisturbed] * 12 + [changed] * 12, samples, strict=True)):
        if number == 12 + 2:
            for change in page["cursor"].history[2:]:
                changed.change(change)
        drawn = plain.draw()
        assert drawn is not None
        channel, epoch, told = drawn
        assert sample == (channel, epoch, told.tokens)
