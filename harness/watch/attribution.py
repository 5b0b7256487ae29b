"""Decides from evidence whether the data or the model caused an episode (pure).

All samples of the evidence were computed with the same weights, some of them from steps before the onset. If the
samples of the episode still have other losses than those before it, the data differ. If all have similar losses, the
model has changed. Hard data alone are not a reason to skip them: an episode is traced to dirty documents only if
samples that look like dirt make up most of the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from statistics import median

from harness.run.evidence import Sample
from harness.text import listed

GARBLED_NATS = 2.5
"""A sample whose loss is this far above the usual one of its channel is not just hard but unpredictable. Clean text of
another language than the channel's last steps was up to 1.8 above (decision 0012)."""
ONE_TOKEN_SHARE = 0.5
REPEATED_SHARE = 0.5
NEWLINE_SHARE = 0.5
UNREADABLE_SHARE = 0.05
_ABOVE_USUAL = 0.2
"""A share counts as a sign only if it exceeds the largest one among the samples before the onset by this much. So it
never counts in a channel whose samples always look like that."""
EXPLAINED_SHARE = 0.5
"""Share of the difference that dirty samples must make up."""
LEAST_SHIFT_SHARE = 0.25
"""Share of the height below which the difference with the current weights shows that the data do not explain the
episode."""
_NUM_NAMED = 20
_NUM_ORIGINS = 3
_MOST_CHARACTERS = 700


@dataclass(frozen=True, kw_only=True)
class DirtySample:
    """A sample that looks like dirt, with the sign."""

    sample: Sample
    sign: str


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The result of weighing evidence of an episode."""

    dirty: bool
    """True if dirty documents are the cause."""
    text: str
    dirty_samples: tuple[DirtySample, ...] = ()
    """The worst first."""

    def documents(self) -> list[dict[str, object]]:
        """Return the documents of the dirty samples, part by part, the worst samples first."""
        by_part: dict[tuple[str, str], dict[int, str]] = {}
        for each in self.dirty_samples:
            known = by_part.setdefault((each.sample.channel, each.sample.part), {})
            for number, origin in zip_longest(each.sample.documents, each.sample.provenance, fillvalue=""):
                if isinstance(number, int):
                    known.setdefault(number, origin)
        return [
            {"channel": channel, "part": part, "documents": list(numbers), **_provenance(numbers.values())}
            for (channel, part), numbers in by_part.items()
        ]


def attribute(
    samples: Sequence[Sample], *, channel: str | None, direction: str, start: int, height: float
) -> Attribution:
    """Return the cause of an episode that began at step `start`, from evidence of steps before and after the onset.

    `channel` is the one whose loss moved, None for the total. `height` is the largest distance from the forecast in
    nats, 0 where the loss was not finite.
    """
    watched = [sample for sample in samples if channel is None or sample.channel == channel]
    before = [sample for sample in watched if sample.step < start and math.isfinite(sample.loss)]
    within = [sample for sample in watched if sample.step >= start]
    broken = [DirtySample(sample=sample, sign="its loss is not finite") for sample in within if math.isnan(sample.loss)]
    if broken:
        return Attribution(
            dirty=True, text=f"{len(broken)} samples have a loss that is not finite", dirty_samples=tuple(broken)
        )
    if not before or not within:
        return Attribution(dirty=False, text="there are no samples to compare with")
    usual = {name: median(s.loss for s in before if s.channel == name) for name in {s.channel for s in before}}
    sign = 1 if direction == "up" else -1
    compared = [sample for sample in within if sample.channel in usual]
    moved = {sample.position: sign * (sample.loss - usual[sample.channel]) * sample.tokens for sample in compared}
    num_tokens = math.fsum(sample.tokens for sample in compared)
    shift = math.fsum(moved.values()) / num_tokens if num_tokens else 0.0
    if shift <= LEAST_SHIFT_SHARE * abs(height):
        return Attribution(
            dirty=False,
            text=f"with the current weights these samples differ by {sign * shift:+.2f} nats from those before: the "
            "model has changed, not the data",
        )
    dirty_samples = _dirty_samples(compared, before, usual, sign)
    explained = math.fsum(moved[each.sample.position] for each in dirty_samples) / num_tokens
    if not dirty_samples or explained < EXPLAINED_SHARE * shift:
        text = f"these samples differ by {sign * shift:+.2f} nats from those before, but do not look like dirt"
        return Attribution(dirty=False, text=text)
    ordered = sorted(dirty_samples, key=lambda each: -moved[each.sample.position])
    return Attribution(
        dirty=True,
        text=f"{len(dirty_samples)} of {len(compared)} samples look like dirt ({ordered[0].sign}) and make up "
        f"{100 * min(1.0, explained / shift):.0f} % of a difference of {sign * shift:+.2f} nats",
        dirty_samples=tuple(ordered),
    )


def named(attribution: Attribution) -> str:
    """Return the dirty documents in words, as many as fit on a line."""
    texts = []
    for found in attribution.documents():
        numbers = found["documents"]
        assert isinstance(numbers, list), "documents are a list"
        origins = found.get("provenance", [])
        assert isinstance(origins, list), "provenance is a list"
        known = f" (from {listed(origins, _NUM_ORIGINS)})" if origins else ""
        texts.append(f"{found['channel']}/{found['part']}: documents {listed(numbers, _NUM_NAMED)}{known}")
    return "; ".join(texts)


def _provenance(origins: Iterable[str]) -> dict[str, list[str]]:
    """Return the field of an event that says where documents came from; none where that is not known of any."""
    known = [origin[:_MOST_CHARACTERS] for origin in islice(origins, _NUM_NAMED)]
    return {"provenance": known} if any(known) else {}


def _dirty_samples(
    compared: Iterable[Sample], before: Sequence[Sample], usual: dict[str, float], sign: int
) -> list[DirtySample]:
    """Return the samples that show a sign of dirt and moved in the direction of the episode."""
    found = []
    for sample in compared:
        if sign * (sample.loss - usual[sample.channel]) <= 0:
            continue
        if text := _sign(sample, [each for each in before if each.channel == sample.channel], usual[sample.channel]):
            found.append(DirtySample(sample=sample, sign=text))
    return found


def _sign(sample: Sample, before: Sequence[Sample], usual_loss: float) -> str | None:
    """Return the sign of dirt in a sample, in words, or None."""
    shares = (
        ("newline_share", NEWLINE_SHARE, "line breaks"),
        ("one_token_share", ONE_TOKEN_SHARE, "one token"),
        ("repeated_share", REPEATED_SHARE, "repetition"),
        ("unreadable_share", UNREADABLE_SHARE, "unreadable characters"),
    )
    for name, least, words in shares:
        share = getattr(sample, name)
        largest = max((getattr(each, name) for each in before), default=0.0)
        if share >= least and share >= largest + min(_ABOVE_USUAL, least):
            return f"{100 * share:.0f} % {words}"
    if sample.loss - usual_loss >= GARBLED_NATS:
        return f"a loss of {sample.loss:.2f} where {usual_loss:.2f} is usual"
    return None
