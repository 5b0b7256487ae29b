"""Compares held-out losses with those of before: which channels became worse. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.run import metric_names as names
from harness.run.checkpoints.manifest import HeldOutLosses

WORSE_NATS = 0.01
"""Rise of a held-out loss above which a channel became worse: a hundredth of the perplexity. The samples are the same
ones, so that less is mostly the noise of training."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Held-out losses now, against those of an earlier evaluation."""

    before: HeldOutLosses
    rises: Mapping[str, float]
    """Rise of the loss of each channel that both have, in nats."""
    is_of_other_length: bool
    """True if samples had another length."""

    @property
    def worse(self) -> tuple[str, ...]:
        """Channels that became worse, the worst first."""
        found = [name for name, rise in self.rises.items() if rise > WORSE_NATS]
        return tuple(sorted(found, key=lambda name: -self.rises[name]))


def losses_in(values: Mapping[str, float]) -> dict[str, float]:
    """Return the held-out loss of each channel among metrics, where it is finite."""
    prefix = names.valid_lm_loss_of("")
    found = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    return {channel: loss for channel, loss in found.items() if math.isfinite(loss)}


def compared(now: HeldOutLosses, before: HeldOutLosses | None) -> Comparison | None:
    """Return what changed since an earlier evaluation; None if there was none."""
    if before is None:
        return None
    rises = {name: loss - before.losses[name] for name, loss in now.losses.items() if name in before.losses}
    return Comparison(before=before, rises=rises, is_of_other_length=now.seq_length != before.seq_length)


def summary(now: HeldOutLosses, since_base: Comparison | None, since_phase: Comparison | None) -> list[str]:
    """Return lines for people about the end of a phase: every loss with its changes, and what became worse."""
    found = [
        (comparison, words)
        for comparison, words in (
            (since_base, "step" if since_base is None else f"step {since_base.before.step}"),
            (since_phase, "phase" if since_phase is None else f"phase {since_phase.before.phase}"),
        )
        if comparison is not None
    ]
    losses = ", ".join(_loss_text(name, loss, found) for name, loss in now.losses.items())
    lines = [f"held-out losses at the end of phase {now.phase}: {losses}"]
    for comparison, words in found:
        if comparison.worse:
            worse = ", ".join(f"{name} by {comparison.rises[name]:.4f}" for name in comparison.worse)
            lines.append(f"warning: worse than at {_moment(comparison, words)}, in nats: {worse}")
    if any(comparison.is_of_other_length for comparison, _ in found):
        lines.append(
            f"(samples have {now.seq_length:,} tokens now and had another length then: part of the change is due to it)"
        )
    return lines


def _moment(comparison: Comparison, words: str) -> str:
    return words if words.startswith("step") else f"the end of {words}"


def _loss_text(name: str, loss: float, found: list[tuple[Comparison, str]]) -> str:
    changes = [
        f"{comparison.rises[name]:+.4f} since {words}" for comparison, words in found if name in comparison.rises
    ]
    return f"{name} {loss:.4f}" + (f" ({', '.join(changes)})" if changes else "")
