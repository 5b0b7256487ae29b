"""Counts what the channels of one phase of a training configuration can give, as training counts it.

Tokens are those in whole samples of the phase's length, without held-out documents; passes in other phases of the run
count against the limit on epochs.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from data_prep.channels.mix import Supply
from harness.config.load import load_config
from harness.config.schema import Config
from harness.errors import UsageError
from harness.plan.channel_tokens import held_out_share, tokens_to_train_on
from harness.plan.layouts import needed_world_sizes
from harness.plan.plan import PhasePlan, make_plan


def phase_supplies(file: Path, phase_name: str | None) -> tuple[list[Supply], int, dict[str, float]]:
    """Return the channels of a phase's blend, the tokens of the phase in whole steps, and the weights that it has.

    Raises:
        ConfigError: The configuration is wrong.
        UsageError: There is no such phase, or a channel cannot be read or has no whole sample.
    """
    config = load_config(file)
    phases = make_plan(config, needed_world_sizes(config)).phases
    phase = _named(phases, phase_name, file)
    supplies = [_supply(config, name, phase, phases) for name in phase.shares]
    return supplies, phase.train_tokens, dict(config.phases[phase.index].blend)


def _named(phases: tuple[PhasePlan, ...], name: str | None, file: Path) -> PhasePlan:
    found = [phase for phase in phases if name in (None, phase.name)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(phase.name for phase in phases)
    if name is None:
        raise UsageError(f"{file} has {len(phases)} phases ({names}): give --phase with the one to weigh.")
    raise UsageError(f"--phase {name}: there is no such phase in {file}. Phases: {names}.")


def _supply(config: Config, name: str, phase: PhasePlan, phases: tuple[PhasePlan, ...]) -> Supply:
    channel = config.data.channels[name]
    found = tokens_to_train_on(channel, held_out_share(config))
    if found is None:
        raise UsageError(f"channel {name}: its parts cannot be read from {channel.path}. Make it first, or mend it.")
    used = Fraction(0)
    for other in phases:
        if other.index != phase.index and name in other.shares:
            used += other.shares[name] * other.train_samples / max(1, found.num_samples(other.seq_length))
    num_samples = found.num_samples(phase.seq_length)
    if num_samples == 0:
        raise UsageError(
            f"channel {name}: its {found.total:,} tokens make no sample of {phase.seq_length:,} tokens. Add parts, or "
            "leave it out of the blend."
        )
    return Supply(name=name, path=channel.path, tokens=num_samples * phase.seq_length, used_epochs=used)
