"""Finds spikes, falls and drift in the losses of a run: one record in, verdicts out.

The total and every channel are curves of their own (`harness.watch.curve`). Two things are done before they look:

* The total is corrected for the mix. With n_c / n the channel's share of this step's tokens, r_c its usual share and
  l_c the forecast of its loss, `total - Σ (n_c / n - r_c) · l_c` moves when losses move and not when the blend does.
* The gradient norm is a witness (`harness.watch.witness`). It may jump some steps before the loss. For four records
  after its jump the losses are suspect at 80 % of their threshold. It never alarms by itself.

A planned change (phase, jump of the learning rate or of the batch size) makes every curve learn its level anew instead
of alarming. After a resume only open episodes are forgotten, because the loss should go on where it was.

The detector's state is JSON (`save`, `restore`). Floats come back exactly, so that a restarted detector reports what an
uninterrupted one would have reported.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from harness.json_text import parse_json
from harness.watch.curve import VALUE_SETTINGS, Curve
from harness.watch.series import SeriesSettings
from harness.watch.verdict import TOTAL, OpenEpisode, Verdict
from harness.watch.witness import Witness

CHANNEL_SETTINGS = replace(VALUE_SETTINGS, most_threshold=12.0)
"""A channel may have few documents in a step, and then its tails are heavy."""
MOST_CURVES = 20_000
"""Channels beyond these are not watched. No run has so many; a damaged file may name new ones in every line."""
_PLANNED_RATIO = 1.3
"""A larger change of learning rate or batch size from one record to the next happens only on purpose."""
_LEARN_SHARES_RECORDS = 32
"""Number of records after a start or a planned change over which the usual shares of the channels are averaged."""
_LEAST_TOKENS_SHARE = 0.2
"""A channel is not judged in a step in which it has less than this share of its usual tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LossRecord:
    """The input of the detector for one logged step. Unknown values are None or absent."""

    step: int
    loss: float | None
    """Token-weighted mean over the global batch, in nats."""
    channels: Mapping[str, float] = field(default_factory=dict)
    """Loss of each channel that had tokens."""
    tokens: Mapping[str, float] = field(default_factory=dict)
    """Tokens of each channel."""
    grad_norm: float | None = None
    learning_rate: float | None = None
    phase: str | None = None
    attempt: int = 0


@dataclass(slots=True)
class DetectorState:
    """The state of the detector between two records."""

    curves: dict[str, Curve] = field(default_factory=dict)
    witness: Witness = field(default_factory=Witness)
    usual_shares: dict[str, float] = field(default_factory=dict)
    num_shares: int = 0
    not_finite: list[str] = field(default_factory=list)
    """Curves whose last value was not finite. This is reported once, until they are finite again."""
    step: int | None = None
    attempt: int = 0
    phase: str | None = None
    learning_rate: float | None = None
    tokens: float = 0.0


_STATE = TypeAdapter(DetectorState)
_FORMAT = 2


class Detector:
    """Watches the losses of one run. Feed it every record, in the order in which training wrote them."""

    def __init__(self, settings: SeriesSettings = VALUE_SETTINGS) -> None:
        """Start without any knowledge. The settings are those of the total, value by value."""
        self._state = DetectorState()
        self._settings = settings

    def save(self) -> str:
        """Return the state as one line of JSON."""
        return json.dumps({"format": _FORMAT, "state": _STATE.dump_python(self._state)}, allow_nan=False)

    def restore(self, text: str) -> None:
        """Go on from a saved state.

        Raises:
            ValueError: The text is not a state that this version wrote.
        """
        document = parse_json(text)
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError(f"not the state of a detector of format {_FORMAT}")
        self._state = _STATE.validate_python(document["state"])

    def observe(self, record: LossRecord) -> list[Verdict]:
        """Judge one record; return the new verdicts, usually none."""
        state = self._state
        tokens = float(sum(record.tokens.values())) if record.tokens else 0.0
        self._notice_changes(record, tokens)
        state.step = record.step
        witnessed = record.grad_norm is not None and state.witness.observe(record.grad_norm)
        total = record.loss
        if not record.channels:
            return [] if total is None else self._judge(TOTAL, total, tokens, record.step, self._settings, witnessed)
        verdicts: list[Verdict] = []
        if total is not None and math.isfinite(total):
            total -= self._mix_excess(record, tokens)
        for channel, loss in record.channels.items():
            weight = record.tokens.get(channel, 0.0)
            verdicts += self._judge(channel, loss, weight, record.step, CHANNEL_SETTINGS, witnessed)
        if total is not None:
            verdicts += self._judge(TOTAL, total, tokens, record.step, self._settings, witnessed)
        return verdicts

    def open_episodes(self) -> list[OpenEpisode]:
        """Return the open episodes, those of the total last."""
        return [episode for curve in self._state.curves.values() for episode in curve.open_episodes()]

    def _judge(
        self, channel: str, loss: float, weight: float, step: int, settings: SeriesSettings, witnessed: bool
    ) -> list[Verdict]:
        """Judge the loss of one channel or of the total."""
        state = self._state
        if not math.isfinite(loss):
            if channel in state.not_finite:
                return []
            state.not_finite.append(channel)
            return [_non_finite(channel, step)]
        if state.not_finite and channel in state.not_finite:
            state.not_finite.remove(channel)
        curve = state.curves.get(channel)
        if curve is None:
            if len(state.curves) >= MOST_CURVES:
                return []
            curve = state.curves[channel] = Curve.of(channel)
        usual_weight = curve.values.baseline.mean_weight
        if weight <= 0.0:  # not known: as many as usual
            weight = usual_weight or 1.0
        if weight < _LEAST_TOKENS_SHARE * usual_weight:
            return []
        return curve.observe(step, loss, weight, settings, witnessed)

    def _mix_excess(self, record: LossRecord, tokens: float) -> float:
        """Return the part of the total that comes only from this step's unusual mix of channels."""
        if tokens <= 0.0:
            return 0.0
        state = self._state
        shares = {channel: record.tokens.get(channel, 0.0) / tokens for channel in record.channels}
        if state.num_shares < _LEARN_SHARES_RECORDS:
            state.num_shares += 1
            for channel in shares.keys() | state.usual_shares.keys():
                usual = state.usual_shares.get(channel, 0.0)
                state.usual_shares[channel] = usual + (shares.get(channel, 0.0) - usual) / state.num_shares
        excess = 0.0
        for channel in sorted(shares.keys() | state.usual_shares.keys()):
            curve = state.curves.get(channel)
            level = record.channels.get(channel) if curve is None else curve.values.baseline.forecast
            if level is not None and math.isfinite(level):
                excess += (shares.get(channel, 0.0) - state.usual_shares.get(channel, 0.0)) * level
        return excess

    def _notice_changes(self, record: LossRecord, tokens: float) -> None:
        """Learn levels anew after a planned change; forget open episodes after a resume."""
        state = self._state
        if state.step is not None:
            rate, phase = record.learning_rate, record.phase
            changed = (
                (rate != state.learning_rate and _jumped(state.learning_rate, rate))
                or (tokens != state.tokens and _jumped(state.tokens, tokens))
                or (phase != state.phase and phase is not None and state.phase is not None)
            )
            if changed:
                for curve in state.curves.values():
                    curve.relearn()
                state.witness.relearn()
                state.num_shares = 0
            elif record.attempt != state.attempt or record.step <= state.step:
                state.not_finite.clear()
                for curve in state.curves.values():
                    curve.rewind(record.step)
                state.witness.rewind()
        state.attempt = record.attempt
        state.tokens = tokens
        if record.phase is not None:
            state.phase = record.phase
        if record.learning_rate is not None:
            state.learning_rate = record.learning_rate


def _jumped(before: float | None, now: float | None) -> bool:
    """Return whether a setting changed by more than a schedule would change it."""
    if not before or not now or before < 0.0 or now < 0.0:
        return False
    return now > before * _PLANNED_RATIO or before > now * _PLANNED_RATIO


def _non_finite(channel: str, step: int) -> Verdict:
    return Verdict(
        kind="non-finite", channel=channel, direction="up", step=step, start=step, end=step, z=0.0, height=0.0
    )
