"""The report on a step: the samples that it was trained on, the most suspicious first, for people and for scripts."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from types import MappingProxyType

from harness.channels.provenance_of_parts import Provenances
from harness.data.order.channel_order import SampleAddress
from harness.data.order.samples import ReadSample
from harness.data.signs import text_signs, token_signs
from harness.errors import DataError
from harness.run.evidence import Sample, evidence_files, read_evidence
from harness.run.paths import RunDir
from harness.tokenizers.tokenizer import Tokenizer
from harness.usage.overlaps import overlaps
from harness.usage.past_steps import PastStep
from harness.watch.attribution import (
    GARBLED_NATS,
    NEWLINE_SHARE,
    ONE_TOKEN_SHARE,
    REPEATED_SHARE,
    UNREADABLE_SHARE,
)

DUPLICATE_SHARE = 0.5
COMPRESSION_RATIO = 8.0
"""Text of natural length is compressed to a third or a quarter."""
_LONG_BREAK = re.compile(r"\n{4,}")
_NOT_FINITE = 1000.0
_SIGNS = (
    ("newline_share", NEWLINE_SHARE, "line breaks"),
    ("unreadable_share", UNREADABLE_SHARE, "unreadable characters"),
    ("repeated_line_share", REPEATED_SHARE, "one line again and again"),
    ("most_common_token_share", ONE_TOKEN_SHARE, "one token"),
    ("repeated_share", REPEATED_SHARE, "repetition"),
)
Signs = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class SampleReport:
    """A sample of a step as a person wants to see it."""

    position: int
    channel: str
    part: str
    epoch: int
    sample: int
    documents: list[int]
    provenance: list[str] | None
    """Source file, line, and id or URL of each, in words; None if the channel does not record it."""
    tokens: int
    loss: float | None
    """From evidence, with the weights of when it was asked for; None without."""
    usual_loss: float | None
    """Median of the channel's samples before this step in the same evidence."""
    signs: Signs
    duplicate_of: int | None
    """Position of a sample of the step with which it shares at least half of its text."""
    looks_like: list[str]
    """Suspicious signs, in words."""
    suspicion: float
    """Strength of the strongest sign, relative to its threshold; below 1 nothing is suspicious."""
    text: str | None
    """None without a tokenizer."""
    ids: list[int]


def step_report(
    run_dir: RunDir, step: PastStep, tokenizer: Tokenizer | None, channels: Mapping[str, Path] = MappingProxyType({})
) -> list[SampleReport]:
    """Return all samples of a step, the most suspicious first; `channels` are their paths by name."""
    losses, usual = _evidence(run_dir, step.record.step)
    shared = overlaps([sample.tokens for sample in step.samples])
    reports = []
    for sample, overlap in zip(step.samples, shared, strict=True):
        is_duplicate = overlap is not None and overlap.share >= DUPLICATE_SHARE
        other = step.samples[overlap.other].position if overlap is not None and is_duplicate else None
        loss, usual_loss = losses.get(sample.address), usual.get(sample.address.channel)
        reports.append(_report(sample, loss, usual_loss, tokenizer, other))
    with Provenances(channels) as known:
        reports = [
            replace(report, provenance=known.in_words(report.channel, report.part, report.documents))
            for report in reports
        ]
    return sorted(reports, key=lambda report: (-report.suspicion, report.position))


def in_words(report: SampleReport, max_characters: int) -> str:
    """Return a sample as text for a terminal: its origin, its suspicious signs, and then its text."""
    loss = "" if report.loss is None else f", loss {report.loss:.2f}"
    usual = "" if report.usual_loss is None else f" (usual {report.usual_loss:.2f})"
    documents = ", ".join(map(str, report.documents))
    lines = [f"── {report.channel}/{report.part}, documents {documents}: {report.tokens:,} tokens{loss}{usual}"]
    lines += [f"   from {origin}" for origin in report.provenance or ()]
    shares = ", ".join(f"{name.removesuffix('_share')} {value:g}" for name, value in report.signs.items())
    lines.append(f"   {'; '.join(report.looks_like) or 'nothing suspicious'}  [{shares}]")
    shown = _with_counted_breaks(report.text) if report.text is not None else " ".join(map(str, report.ids))
    more = f" … ({len(shown) - max_characters:,} more characters)" if len(shown) > max_characters else ""
    return "\n".join([*lines, shown[:max_characters] + more])


def _with_counted_breaks(text: str) -> str:
    return _LONG_BREAK.sub(lambda found: f"\n[{len(found[0]):,} line breaks]\n", text)


def as_json(reports: Sequence[SampleReport]) -> list[dict[str, object]]:
    """Return the samples as plain JSON values; `ids` only for a sample without text, and None for a loss not finite."""
    return [
        {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(report).items()
            if report.text is None or name != "ids"
        }
        for report in reports
    ]


def _report(
    sample: ReadSample, loss: float | None, usual: float | None, tokenizer: Tokenizer | None, duplicate_of: int | None
) -> SampleReport:
    address = sample.address
    text = None if tokenizer is None else tokenizer.decode(sample.tokens.tolist())
    signs: Signs = dict(token_signs(sample.tokens))
    if text is not None:
        signs |= {name: value for name, value in text_signs(text).items() if isinstance(value, float)}
    found = list(_suspicions(signs, loss, usual, duplicate_of))
    return SampleReport(
        position=sample.position,
        channel=address.channel,
        part=address.part,
        epoch=address.epoch,
        sample=address.index,
        documents=[span.document for span in sample.documents],
        provenance=None,
        tokens=len(sample.tokens) - 1,
        loss=loss,
        usual_loss=usual,
        signs=signs,
        duplicate_of=duplicate_of,
        looks_like=[words for size, words in found if size >= 1.0],
        suspicion=round(max((size for size, _ in found), default=0.0), 4),
        text=text,
        ids=sample.tokens.tolist(),
    )


def _suspicions(
    signs: Signs, loss: float | None, usual: float | None, duplicate_of: int | None
) -> Iterator[tuple[float, str]]:
    """Yield the strength of each sign, relative to the threshold from which on it is suspicious, and its words."""
    for name, least, words in _SIGNS:
        if name in signs:
            yield signs[name] / least, f"{100 * signs[name]:.0f} % {words}"
    if "compression_ratio" in signs:
        yield signs["compression_ratio"] / COMPRESSION_RATIO, f"compresses {signs['compression_ratio']:g} times"
    if loss is not None and not math.isfinite(loss):
        yield _NOT_FINITE, "its loss is not finite"
    elif loss is not None and usual is not None:
        yield abs(loss - usual) / GARBLED_NATS, f"a loss of {loss:.2f} where {usual:.2f} is usual"
    if duplicate_of is not None:
        yield 1.0, f"a duplicate of the sample at position {duplicate_of}"


def _evidence(run_dir: RunDir, step: int) -> tuple[dict[SampleAddress, float], dict[str, float]]:
    """Return the losses in the newest evidence that has samples of the step: theirs, and the usual one by channel."""
    for _, path in evidence_files(run_dir):
        with suppress(DataError):
            samples = read_evidence(path)
            mine = [each for each in samples if each.step == step]
            before = [each for each in samples if each.step < step and math.isfinite(each.loss)]
            if mine:
                channels = {each.channel for each in before}
                return (
                    {_address(each): each.loss for each in mine},
                    {name: median(each.loss for each in before if each.channel == name) for name in channels},
                )
    return {}, {}


def _address(sample: Sample) -> SampleAddress:
    return SampleAddress(channel=sample.channel, part=sample.part, epoch=sample.epoch, index=sample.index)
