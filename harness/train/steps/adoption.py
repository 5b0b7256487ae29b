"""Adds parts that arrive while the run goes on to its data order, at one position on which all ranks agree."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain

from harness.channels.parts import check_files
from harness.data.arrivals import NewParts
from harness.data.order.cursor import Cursor
from harness.errors import DataError, SaveFailedError
from harness.parallel import collectives
from harness.run.checked_parts import CheckedPart, append_checked
from harness.run.commands.command import Command
from harness.run.event_types import Adopted, PartsCame, PartsRefused, WaitingForParts
from harness.run.heartbeats import Activity
from harness.run.order_changes import History, PhaseBegun, last_adoption_of, num_same
from harness.run.order_file import append_to_journal
from harness.train.run import Run
from harness.train.state import TrainState

_LOOK_EVERY_S = 1.0


def adopt(run: Run, state: TrainState, summed_flags: Sequence[float]) -> TrainState:
    """Return the state with the arrived parts in its data order. Every rank must call it with the same sums.

    Parts that some rank cannot see yet, or that cannot be written down, are found again later.
    """
    news = run.inbox.news(summed_flags)
    for refused in news.problems:
        _announce_refusal(run, state, "refused", refused)
    if not news.parts:
        return state
    unseen = [problem for problem in collectives.gathered(_unseen(news)) if problem is not None]
    if unseen:
        run.inbox.put_back(news)
        return state
    cursor = run.data.stream.adopted(state.cursor, news.parts)
    problem = collectives.from_rank_0(_not_written(run, state.cursor, cursor))
    if problem is not None:
        _announce_refusal(run, state, "not adopted", problem)
        run.inbox.put_back(news)
        return state
    run.data.stream.extend(news.parts)
    if run.data.sound_parts is not None:
        run.data.sound_parts.know(news.checked)
        remember(run, tuple(news.checked.values()))
    for name, parts in news.parts.items():
        tokens = sum(part.num_tokens for part in parts)
        adopted = Adopted(
            attempt=state.attempt,
            step=state.step,
            channel=name,
            parts=tuple(part.name for part in parts),
            tokens=tokens,
            position=_adopted_at(cursor, name),
        )
        run.announce(f"adopted {len(parts)} parts of {name} ({tokens:,} tokens), first {parts[0].name}", adopted)
    return replace(state, cursor=cursor)


def _adopted_at(cursor: Cursor, channel: str) -> int:
    adoption = last_adoption_of(cursor.history, channel)
    assert adoption is not None, "parts of it were adopted"
    return adoption.position


def await_parts(run: Run, state: TrainState) -> tuple[TrainState, list[Command]]:
    """Wait until the next step has its samples, or a command comes. Every rank must call it.

    Returns the state with the parts that came, and the commands. Returns at once unless a channel with `when_low: wait`
    is used up.

    Raises:
        DataError: No more samples can be drawn, and no parts are adopted.
    """
    lacking = run.data.stream.lacks_parts_of(state.cursor)
    if not lacking:
        return state, []
    names = ", ".join(lacking)
    if not run.config.data.adopt_parts:
        raise DataError(
            f"no data is left in {names} after step {state.step}, and no parts are adopted. Set data.adopt_parts to "
            "true, or raise `max_epochs` of the channels."
        )
    run.heartbeat.enter(Activity.DATA, state.step + 1)
    text = f"warning: no data is left in {names}: training waits for further parts (`when_low: wait`)"
    run.announce(text, WaitingForParts(attempt=state.attempt, step=state.step, channels=tuple(lacking)))
    began = time.monotonic()
    while lacking:
        flags = run.inbox.summed_flags(lacks_parts=True)
        state = adopt(run, state, flags)
        if commands := run.inbox.agree(flags):
            return state, commands
        lacking = run.data.stream.lacks_parts_of(state.cursor)
        if lacking:
            time.sleep(_LOOK_EVERY_S)
    waited_s = round(time.monotonic() - began, 3)
    came = PartsCame(attempt=state.attempt, step=state.step, channels=names, seconds=waited_s)
    run.announce(f"parts of {names} came: training goes on", came)
    return state, []


def remember(run: Run, checked: Sequence[CheckedPart]) -> None:
    """Write down parts that were read and found sound, on the writer, for later launches."""
    if run.ranks.is_writer and checked:
        run.desk.hand(partial(_remember, run, checked))


def _remember(run: Run, checked: Sequence[CheckedPart]) -> None:
    with suppress(OSError):  # then the next launch reads these parts again
        append_checked(run.run_dir.checked_parts, checked)


def write_down(run: Run, before: History, after: History) -> None:
    """Append the changes of `after` that `before` does not have to the journal, on the writer, and wait for the disk.

    If somebody has removed the journal since, all changes of `after` are written again.

    Raises:
        SaveFailedError: The disk does not take them.
    """
    if run.ranks.is_writer:
        run.desk.do(partial(_write_down, run, before, after))


def _write_down(run: Run, before: History, after: History) -> None:
    known = before if run.run_dir.order.exists() else ()
    count = num_same(known, after)
    further, known = after[count:], known[count:]
    append_to_journal(
        run.run_dir.order, [each for each in further if not isinstance(each, PhaseBegun) and each not in known]
    )


def _announce_refusal(run: Run, state: TrainState, outcome: str, reason: str) -> None:
    refused = PartsRefused(attempt=state.attempt, step=state.step, reason=reason)
    run.announce(f"warning: parts were {outcome}: {reason}", refused)


def _not_written(run: Run, before: Cursor, after: Cursor) -> str | None:
    """Write down the changes of a cursor's history; return the problem, or None."""
    try:
        write_down(run, before.history, after.history)
    except SaveFailedError as error:
        return str(error)
    return None


def _unseen(news: NewParts) -> str | None:
    """Return why this rank cannot read the parts, or None."""
    try:
        for part in chain.from_iterable(news.parts.values()):
            check_files(part)
    except DataError as error:
        return str(error)
    return None
