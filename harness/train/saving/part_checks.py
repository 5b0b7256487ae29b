"""Lets no step use a part before it is known to be sound; or, with `data.damaged_parts: alert`, tells of damage later.

A run that ends because of a part has used nothing of it, so what it did so far is saved first. If the part was in use
already (it changed on the disk while the run trained on it), nothing is saved: nobody knows since when it was another.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from harness.data.files.checked import UsedPart
from harness.errors import DataError
from harness.run.commands.command import Command
from harness.run.event_types import PartDamaged
from harness.run.heartbeats import Activity
from harness.train.components.agreement import raising_together
from harness.train.components.sound_parts import Damage, Learnt, SoundParts
from harness.train.run import Run
from harness.train.saving.background import finish_save, save_or_begin
from harness.train.state import TrainState
from harness.train.steps.adoption import remember

_LOOK_EVERY_S = 0.05
_LONGEST_PAUSE_S = 1.0
_SILENT_S = 5.0
"""Waits that are shorter are not worth a line."""


def await_sound_parts(run: Run, state: TrainState) -> list[Command]:
    """Wait until the parts of the next step are known to be sound, or a command comes. Every rank must call it.

    Returns the commands. Returns at once, without a collective, if the parts are known already, as they are at most
    steps, or if training does not wait for them.

    Raises:
        DataError: A part is damaged, and the run is to end.
        SystemExit: The same on all ranks but the first.
    """
    known = run.data.sound_parts
    if known is None:
        return []
    parts = run.data.stream.parts_at(state.cursor)
    held_out = () if run.held_out is None else run.held_out.parts
    known.follow(parts, held_out)
    needed = (*parts.used, *held_out)
    began, pause_s, is_told = time.monotonic(), _LOOK_EVERY_S, False
    while run.config.data.damaged_parts == "refuse" and known.unknown(needed):
        run.heartbeat.enter(Activity.DATA, state.step + 1)
        _react(run, state, known.learn())
        if not (missing := known.unknown(needed)):
            break
        if commands := run.inbox.agree(run.inbox.summed_flags()):
            return commands
        if not is_told and time.monotonic() - began > _SILENT_S:
            is_told = True  # the clocks of ranks differ, but only the first one tells
            run.announce(f"training waits until {' '.join(missing[0].key)} is read whole, before it is used")
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    _require_sound(run, state, known, needed)
    known.use(needed, state.step + 1)
    return []


def hear_of_parts(run: Run, state: TrainState, summed_flags: Sequence[float]) -> None:
    """Learn what the ranks have found beside the step that led to `state`. Every rank must call it with the same sums.

    A damaged part is told at once; the run ends when its turn comes, or before the next step if that has been.
    """
    if run.data.sound_parts is not None and run.inbox.has_part_news(summed_flags):
        _react(run, state, run.data.sound_parts.learn())


def _react(run: Run, state: TrainState, learnt: Learnt) -> None:
    """Write down sound parts for later launches, and tell people of damaged ones."""
    remember(run, learnt.sound)
    for channel, part in learnt.healed:
        run.announce(f"{channel} {part} is as it was made again")
    for damage in learnt.damages:
        event = PartDamaged(
            attempt=state.attempt,
            step=state.step,
            channel=damage.part[0],
            part=damage.part[1],
            reason=damage.reason,
            used_since=damage.used_since,
        )
        run.announce(f"warning: {damage.reason}{_used(damage)}", event)


def _require_sound(run: Run, state: TrainState, known: SoundParts, needed: tuple[UsedPart, ...]) -> None:
    """End the run if the next step needs a damaged part, or an earlier one was trained on it, and that is refused."""
    damages = known.fatal(needed)
    if run.config.data.damaged_parts != "refuse" or not damages:
        return
    worst = min(damages, key=lambda damage: (damage.used_since is None, damage.part))
    if worst.used_since is not None:
        kept = f"The last checkpoint is {state.checkpoint or 'none'}; nothing was saved since."
    else:
        state = finish_save(run, state)
        if state.step > 0 and not state.is_saved:
            state = save_or_begin(run, state, now=True)
        kept = f"It goes on from {state.checkpoint}." if state.is_saved else "No checkpoint was saved."
    with raising_together(run.ranks):
        ended = f"The run ended after step {state.step}; start it again when the part is as it was made."
        raise DataError(f"{worst.reason}{_used(worst)} {ended} {kept}")


def _used(damage: Damage) -> str:
    if damage.used_since is None:
        return " Nothing of it was trained on in this launch."
    return f" Since step {damage.used_since} it was trained on in this launch."
