"""What the campaign threw and what broke, by layer and family; every violation names the trial that shows it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class TrialId(NamedTuple):
    """A trial is drawn from these three alone: `trainer:1:42`."""

    layer: str
    seed: int
    number: int

    @classmethod
    def parse(cls, text: str) -> TrialId:
        layer, seed, number = text.split(":")
        return cls(layer, int(seed), int(number))

    def __str__(self) -> str:
        return f"{self.layer}:{self.seed}:{self.number}"


class Violation(NamedTuple):
    """An invariant that did not hold."""

    trial: str
    family: str
    text: str

    def __str__(self) -> str:
        return f"{self.family} [--replay {self.trial}]: {self.text}"


@dataclass
class Report:
    """Counts of one process; `add` puts those of another one in."""

    injections: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By (layer, family). A fault that never struck is not one."""
    missed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Faults that were drawn and did not strike: the call they waited for did not come."""
    violations: list[Violation] = field(default_factory=list)
    num_trials: int = 0
    num_starts: int = 0
    """How often a trainer was started."""

    def threw(self, layer: str, family: str, times: int = 1) -> None:
        self.injections[layer, family] += times

    def violated(self, trial: object, family: str, text: str) -> None:
        self.violations.append(Violation(str(trial), family, text))

    def add(self, other: Report) -> None:
        self.injections += other.injections
        self.missed += other.missed
        self.violations += other.violations
        self.num_trials += other.num_trials
        self.num_starts += other.num_starts

    def __str__(self) -> str:
        rows = [("layer", "family", "injections", "violations")]
        broken = Counter(violation.family for violation in self.violations)
        for layer, family in sorted(self.injections):
            rows.append((layer, family, f"{self.injections[layer, family]:,}", str(broken[family])))
        rows.append(("all", "", f"{self.injections.total():,}", str(len(self.violations))))
        lines = [*_table(rows), f"{self.num_trials:,} trials, {self.num_starts:,} starts of a trainer"]
        if self.missed:
            lines.append(f"{self.missed.total():,} faults did not strike and are not counted")
        return "\n".join([*lines, *map(str, self.violations)])

    def to_json(self) -> str:
        return json.dumps(
            {
                "injections": [[*key, count] for key, count in self.injections.items()],
                "missed": [[*key, count] for key, count in self.missed.items()],
                "violations": self.violations,
                "num_trials": self.num_trials,
                "num_starts": self.num_starts,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Report:
        fields = json.loads(text)
        return cls(
            injections=Counter({(layer, family): count for layer, family, count in fields["injections"]}),
            missed=Counter({(layer, family): count for layer, family, count in fields["missed"]}),
            violations=[Violation(*violation) for violation in fields["violations"]],
            num_trials=fields["num_trials"],
            num_starts=fields["num_starts"],
        )


def _table(rows: list[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [
            text.ljust(width) if column < 2 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
