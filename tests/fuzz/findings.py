"""Inputs that once broke something, as small files: the damage to files that the product makes, and the command."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oracle import Problem
from trials import Input

FOUND = Path(__file__).parent / "found"


@dataclass(frozen=True)
class Finding:
    """What broke, and the input that showed it."""

    broke: str
    trial: str
    given: Input
    path: Path

    @classmethod
    def of(cls, problem: Problem, given: Input, trial: str) -> Finding:
        words = re.sub(r"[^A-Za-z0-9]+", "-", problem.kind).strip("-").lower()[:60]
        name = f"{words}-{zlib.crc32(f'{given.asked} {problem.kind}'.encode()):08x}.json"
        return cls(f"{problem.kind}: {problem.text}"[:500], trial, given, Path(given.surface.replace(" ", "-"), name))


def write_finding(folder: Path, finding: Finding) -> None:
    """Keeps a finding; one of the same command and kind that is there stays."""
    path = folder / finding.path
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"broke": finding.broke, "trial": finding.trial, **finding.given.to_fields()}
        path.write_text(json.dumps(fields, indent=1, ensure_ascii=True) + "\n")


def kept_findings(folder: Path, surface: str) -> Iterator[Finding]:
    """The findings of a surface, by name."""
    for path in sorted((folder / surface.replace(" ", "-")).glob("*.json")):
        fields = json.loads(path.read_text())
        yield Finding(fields["broke"], fields["trial"], Input.from_fields(fields), path)
