"""Finds rules that drop too much of a source, or of one language in it: then a person should look before it goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.text.file_kinds import DROPPED
from data_prep.text.own_json import fields_of
from data_prep.text.text_files import FileReport
from harness.errors import DataError
from harness.json_text import parse_json
from harness.text import one_line

LEAST_DOCUMENTS = 20
"""Documents of a source, or of a language, from which on a share says something."""
LEAST_OF_SOURCE = 0.01
"""Share of a source's documents that a language has to have; of rarer ones the report tells."""
EXAMPLES = 3


@dataclass(frozen=True)
class Loss:
    """A rule, and how much of what it drops."""

    rule: str
    language: str | None
    """None for the whole source."""
    dropped: int
    documents: int

    @property
    def share(self) -> float:
        """Part of the documents that it drops."""
        return self.dropped / self.documents

    def describe(self) -> str:
        """Return it in a line."""
        of = f" in the language {self.language}" if self.language else ""
        return f"{self.rule}: {self.dropped:,} of {self.documents:,} documents{of} ({self.share:.1%})"


def losses_above(reports: Sequence[FileReport], most_share: float) -> list[Loss]:
    """Return the rules that drop a larger share of the source, or of a language, the largest first."""
    dropped, languages, by_language = Counter[str](), Counter[str](), Counter[str]()
    for report in reports:
        dropped.update(report.dropped)
        languages.update(report.languages)
        by_language.update(report.dropped_by_language)
    documents = sum(report.documents for report in reports)
    found = [Loss(rule, None, count, documents) for rule, count in dropped.items()]
    for name, count in by_language.items():
        language, _, rule = name.partition("/")
        found.append(Loss(rule, language, count, languages[language]))
    least = max(LEAST_DOCUMENTS, LEAST_OF_SOURCE * documents)
    large = [loss for loss in found if loss.documents >= least and loss.share > most_share]
    return sorted(large, key=lambda loss: (-loss.share, -loss.documents))


def require_accepted(folder: Path, reports: Sequence[FileReport], most_share: float, *, is_accepted: bool) -> None:
    """Refuse to finish a folder of which a rule drops too much.

    Raises:
        DataError: It does, and nobody has accepted it; with the numbers and examples.
    """
    losses = losses_above(reports, most_share)
    if is_accepted or not losses:
        return
    lines = []
    for loss in losses:
        lines.append(f"  {loss.describe()}")
        lines += [f"    {begin!r}" for begin in _examples(folder, reports, loss)]
    raise DataError(
        f"{folder}: a rule drops more than {most_share:.0%} of what is there:\n" + "\n".join(lines) + "\nLook at "
        f"NAME{DROPPED} there. Change the rules (harness data prepare cleans anew what they concern; harness data "
        "clean wants another --output), or accept it with --accept-loss: what is done is not done again."
    )


def _examples(folder: Path, reports: Sequence[FileReport], loss: Loss) -> list[str]:
    """Return the begins of some documents that a rule dropped."""
    found: list[str] = []
    for report in reports:
        for entry in _dropped_in(folder / (report.file + DROPPED)):
            is_it = str(entry.get("reason", "")).partition(":")[0] == loss.rule
            if is_it and loss.language in (None, entry.get("language")) and "begin" in entry:
                found.append(one_line(str(entry["begin"])))
                if len(found) == EXAMPLES:
                    return found
    return found


def _dropped_in(file: Path) -> Iterator[dict[str, object]]:
    if not file.is_file():
        return
    with file.open("rb") as lines:
        for line in lines:
            yield fields_of(parse_json(line))
