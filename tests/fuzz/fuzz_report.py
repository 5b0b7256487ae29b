"""What the fuzzer has tried and what it found, by surface; also its state, from which it goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from oracle import Problem
from trials import Input


@dataclass
class SurfaceReport:
    """Counts of one surface and seed."""

    surface: str
    next_number: int = 0
    """The first trial that was not played."""
    codes: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each command left with which exit code."""
    passing: int = 0
    """Problems that did not come again with more time."""
    kinds: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Each kind of problem: how often, the first trial, its text, its smallest input."""

    def count(self, asked: str, code: int) -> None:
        by_code = self.codes.setdefault(asked, {})
        by_code[str(code)] = by_code.get(str(code), 0) + 1

    def knows(self, problem: Problem) -> bool:
        return problem.kind in self.kinds

    def found(self, problem: Problem, trial: str, given: Input) -> None:
        first = {"times": 0, "trial": trial, "text": problem.text[:500], "input": given.to_fields()}
        self.kinds.setdefault(problem.kind, first)["times"] += 1

    @property
    def by_code(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for codes in self.codes.values():
            total.update(codes)
        return total

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> SurfaceReport:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Report:
    """The surfaces of a campaign."""

    surfaces: list[SurfaceReport]

    @property
    def num_inputs(self) -> int:
        return sum(each.by_code.total() for each in self.surfaces)

    @property
    def num_findings(self) -> int:
        return sum(len(each.kinds) for each in self.surfaces)

    def progress(self) -> str:
        return f"{self.num_inputs:,} inputs, {self.num_findings} findings"

    def __str__(self) -> str:
        rows = [("surface", "inputs", "accepted", "refused", "findings")]
        rows += [_row(each.surface, each.by_code, len(each.kinds)) for each in self.surfaces]
        total: Counter[str] = sum((each.by_code for each in self.surfaces), Counter())
        rows.append(_row("all", total, self.num_findings))
        lines = [*_table(rows)]
        for each in self.surfaces:
            for kind, seen in each.kinds.items():
                command = seen["input"]["command"]
                lines.append(f"{each.surface}, {command}: {kind} ({seen['times']} times) [--replay '{seen['trial']}']")
                lines.append(f"    {seen['text'][:300]}")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps({each.surface: asdict(each) for each in self.surfaces}, indent=1)


def _row(name: str, codes: Counter[str], num_findings: int) -> tuple[str, ...]:
    others = [f"{count:,} × {code}" for code, count in sorted(codes.items()) if code != "0"]
    return (name, f"{codes.total():,}", f"{codes['0']:,}", ", ".join(others), str(num_findings))


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            text.ljust(width) if column in (0, 3) else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
