"""The findings as a table on a terminal, as lines in a pipe, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from harness.doctor.findings import Finding
from harness.screen import Screen

_COLOURS = {"ok": "green", "missing": "yellow", "wrong": "bold red"}


def as_json(found: Sequence[Finding]) -> str:
    """Return `{"healthy": …, "findings": [{"name", "state", "found", "advice"}, …]}` as text."""
    lines = [asdict(finding) for finding in found]
    return json.dumps({"healthy": is_healthy(found), "findings": lines}, indent=2, ensure_ascii=False)


def as_lines(found: Sequence[Finding]) -> str:
    """Return one line per finding, for pipes and logs."""
    width = max(len(finding.name) for finding in found)
    return "\n".join(f"{each.name:<{width}}  {each.state:<7}  {_explained(each)}" for each in found)


def show_table(found: Sequence[Finding]) -> None:
    """Draw the findings on a terminal."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for finding in found:
        state = Text(finding.state, style=_COLOURS[finding.state])
        table.add_row(Text(finding.name, style="bold"), state, Text(_explained(finding)))
    Screen().print(table)


def is_healthy(found: Sequence[Finding]) -> bool:
    """Return whether no finding is wrong; optional things may be missing."""
    return all(finding.state != "wrong" for finding in found)


def _explained(finding: Finding) -> str:
    return f"{finding.found} - {finding.advice}" if finding.advice else finding.found
