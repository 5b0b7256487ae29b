"""Sums up what was found in a channel: good, doubtful or bad, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from data_prep.channels.totals import parts_text
from data_prep.channels.verify_channel import Expectation, PartReport
from harness.channels.source import Totals
from harness.text import listed

Judgement = Literal["good", "doubtful", "BAD"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result for one channel."""

    reports: tuple[PartReport, ...]
    text_problems: tuple[str, ...]
    """Parts and text that are lost, of the channel as a whole."""
    doubts: tuple[str, ...]
    """Findings that may be meant so, and mostly are not."""

    @property
    def judgement(self) -> Judgement:
        """The result in one word."""
        if self.text_problems or any(report.problems for report in self.reports):
            return "BAD"
        return "doubtful" if self.doubts else "good"

    def as_json(self) -> list[dict[str, object]]:
        """Return the reports on the parts; problems and doubts of the channel as a whole stand with the first."""
        found = [asdict(report) | {"doubts": ()} for report in self.reports]
        if found:
            found[0]["problems"] = (*found[0]["problems"], *self.text_problems)
            found[0]["doubts"] = self.doubts
        return found

    def describe(self, path: str) -> str:
        """Return the result for a person, in a few lines."""
        documents = sum(report.documents for report in self.reports)
        tokens, largest = sum(report.tokens for report in self.reports), max(report.max_id for report in self.reports)
        lines = [
            f"{path}: {self.judgement}, {parts_text(len(self.reports))}, {documents:,} documents, {tokens:,} tokens, "
            f"largest id {largest}",
            f"  documents that end with the end-of-document token: {_sum(self.reports, 'ended_documents'):,}; such "
            f"tokens inside documents: {_sum(self.reports, 'inner_ends'):,}; empty documents: "
            f"{_sum(self.reports, 'empty_documents'):,}",
        ]
        problems = [problem for report in self.reports for problem in report.problems]
        lines += [f"  {problem}" for problem in (*problems, *self.text_problems)]
        return "\n".join([*lines, *(f"  doubtful: {doubt}" for doubt in self.doubts)])


def judge(
    reports: Sequence[PartReport], expected: Expectation, totals: Totals | None, max_lost_share: float
) -> Verdict:
    """Sum up a channel.

    Args:
        reports: On its parts.
        expected: The properties that they were compared with.
        totals: The counts of its making so far, as it records them; None if it records none.
        max_lost_share: Share of characters or tokens that may be lost.
    """
    return Verdict(
        reports=tuple(reports),
        text_problems=(*_lost_parts(reports, totals), *_lost_text(reports, totals or Totals(), max_lost_share)),
        doubts=(*_doubts(reports, expected), *_lost_white_space(totals or Totals(), max_lost_share)),
    )


def _lost_parts(reports: Sequence[PartReport], totals: Totals | None) -> Iterator[str]:
    tokens = _sum(reports, "tokens")
    if totals is not None and tokens != totals.tokens:
        yield (
            f"{totals.tokens:,} tokens were written when the channel was made, and its parts have {tokens:,}: parts "
            "were removed or added. Restore them, or make the channel anew."
        )


def _lost_text(reports: Sequence[PartReport], totals: Totals, most: float) -> Iterator[str]:
    advice = "Tokenize the text again with another tokenizer, or accept the loss with --max-lost-share"
    if totals.lost_share > most:
        yield (
            f"text was lost: when the channel was made, {totals.lost_share:.2%} of {totals.decoded_characters:,} "
            f"characters that were decoded again did not come back; allowed: {most:.2%}. {advice}."
        )
    tokens = _sum(reports, "tokens")
    unknown = max(_sum(reports, "unknown_tokens"), totals.unknown_tokens)
    if tokens and unknown / tokens > most:
        yield (
            f"text was lost: {unknown:,} tokens ({unknown / tokens:.2%}) stand for unknown text; allowed: {most:.2%}. "
            f"{advice}."
        )
    broken, characters = _sum(reports, "broken_characters"), _sum(reports, "text_characters")
    if characters and broken / characters > most:
        yield (
            f"text was lost: of {characters:,} characters that were read {broken:,} ({broken / characters:.2%}) are "
            f"broken, because bytes are missing; allowed: {most:.2%}. {advice}."
        )


def _lost_white_space(totals: Totals, most: float) -> Iterator[str]:
    if totals.lost_white_space_share > most:
        yield (
            f"white space was lost: when the channel was made, {totals.lost_white_space_share:.2%} of "
            f"{totals.decoded_characters:,} characters that were decoded again were spaces or line breaks that did not "
            "come back"
        )


def _doubts(reports: Sequence[PartReport], expected: Expectation) -> Iterator[str]:
    filled = _sum(reports, "documents") - _sum(reports, "empty_documents")
    ended, begun = _sum(reports, "ended_documents"), _sum(reports, "begun_documents")
    inner_ends, inner_begins = _sum(reports, "inner_ends"), _sum(reports, "inner_begins")
    if inner_ends:
        yield f"{inner_ends:,} end-of-document tokens are inside documents: to a model the document ends there"
    if inner_begins:
        yield f"{inner_begins:,} tokens that begin documents are inside documents: to a model a document begins there"
    without = [Path(report.prefix).name for report in reports if not report.has_provenance and not report.problems]
    if without and any(report.has_provenance for report in reports):
        yield f"of some parts it is not recorded where their documents came from, as it is of others: {listed(without)}"
    if expected.end_id is not None and ended < filled:
        yield f"{filled - ended:,} documents do not end with the end-of-document token (id {expected.end_id})"
    if expected.begin_id is not None and begun < filled:
        yield f"{filled - begun:,} documents do not begin with the token that begins documents (id {expected.begin_id})"


def _sum(reports: Sequence[PartReport], name: str) -> int:
    return sum(int(getattr(report, name)) for report in reports)
