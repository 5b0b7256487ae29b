"""Excludes documents from every later sample, or allows them again, at one position on which all ranks agree."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from harness.data.order.cursor import Cursor
from harness.errors import DataError, SaveFailedError
from harness.parallel import collectives
from harness.run.commands.command import Command
from harness.run.commands.requests import Quarantine
from harness.run.event_types import Quarantined, QuarantineRefused
from harness.run.order_changes import num_parts_of, quarantined_in
from harness.train.run import Run
from harness.train.state import TrainState
from harness.train.steps.adoption import write_down


def quarantine_documents(run: Run, state: TrainState, command: Command) -> TrainState:
    """Carry out a command about documents. Every rank must call it.

    The change is written down before it counts. Documents that are in quarantine already are passed over, so a command
    that is found again after a crash changes nothing. A command that cannot be carried out is reported and changes
    nothing.
    """
    request = command.request
    assert isinstance(request, Quarantine), "the table has the kind"
    found = collectives.from_rank_0(_entered(run, state.cursor, request) if run.ranks.is_writer else "")
    count = sum(map(len, request.documents.values()))
    about: dict[str, Any] = {
        "attempt": state.attempt,
        "step": state.step,
        "documents": request.documents,
        "lift": request.lift,
        "command": command.source,
        "reason": command.reason,
    }
    if isinstance(found, str):
        text = f"warning: the command {command.source} about {count} documents was not carried out: {found}"
        run.inbox.refuse(command, found)
        run.announce(text, QuarantineRefused(**about, problem=found))
        return state
    quarantined = Quarantined(**about, position=found.next_position)
    done = "are in samples again" if request.lift else "are in no sample"
    run.announce(f"{count} documents {done} from step {state.step + 1} on", quarantined)
    return replace(state, cursor=found)


def _entered(run: Run, cursor: Cursor, request: Quarantine) -> Cursor | str:
    """Return the cursor with the documents in its history, after writing them to the journal; or why not."""
    try:
        changed = changed_cursor(run, cursor, request)
        run.data.stream.peek_hash(changed)  # would show that too little is left of a channel
        write_down(run, cursor.history, changed.history)
    except (DataError, SaveFailedError) as error:
        return str(error)
    return changed


def changed_cursor(run: Run, cursor: Cursor, request: Quarantine) -> Cursor:
    """Return the cursor from whose position on the documents are in no sample, or are allowed again.

    Raises:
        DataError: There is no such channel, part or document, or the part is damaged.
    """
    order = run.data.stream.order(cursor)
    held = quarantined_in(cursor.history if request.lift else cursor.passed(cursor.history).history)
    adopted = num_parts_of(cursor.history)
    for place, documents in request.documents.items():
        channel, _, part = place.partition("/")
        turns = order.turns_of(channel)
        number = turns.number_of(part)
        known = turns.channel.parts[number]
        if number >= adopted.get(channel, number + 1):
            raise DataError(f"{place} is not used yet.")
        if documents[-1] >= known.num_documents:
            raise DataError(f"{place} has no document {documents[-1]}; it has {known.num_documents}, counted from 0.")
        inside = held.get((channel, part), {})
        chosen = [document for document in documents if (document in inside) == request.lift]
        if chosen:
            lengths = turns.lengths_of(number, np.array(chosen)).tolist()
            cursor = cursor.quarantine(channel, part, dict(zip(chosen, lengths, strict=True)), lift=request.lift)
    return cursor
