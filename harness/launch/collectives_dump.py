"""Finds the ranks that have not joined a collective in which others wait, from the dumps of torch's flight recorder.

A dump, `flight_recorder/rank_3`, is a pickle of plain values. Unpickling calls whatever a file names, so this reader
looks up no name: it refuses a file that has one. It uses these fields (version 2 of the format, torch 2.4 and later):

    {"pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
     "entries": [{"process_group": ("0", "default_pg"), "collective_seq_id": 5, "profiling_name": "nccl:all_reduce",
                  "is_p2p": False, "state": "scheduled", "retired": False, …}]}
"""

from __future__ import annotations

import io
import pickle  # the architecture's test allows it here: nothing that a file names is ever looked up
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.json_text import parse_json
from harness.text import listed

_MOST_BYTES = 256 * 2**20
FLIGHT_RECORDER = "flight_recorder"
"""Folder of the dumps in that of a launch."""
_NAME = re.compile(r"rank_([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class GroupState:
    """The progress of one rank in one group."""

    description: str
    members: tuple[int, ...]
    """Ranks of the group; empty if the dump does not contain them."""
    collective: str = ""
    """The last collective that it has called, such as `nccl:all_reduce`; empty before the first one."""
    sequence: int = 0
    """Number of that collective in the group."""
    is_done: bool = True
    """True if this call has returned."""


Dump = Mapping[str, GroupState]
"""A rank's state in each of its groups, by the name of the group."""


class _PlainValues(pickle.Unpickler):
    """Reads numbers, text, lists, tuples and mappings; refuses everything else."""

    def find_class(self, module_name: str, global_name: str, /) -> object:
        raise pickle.UnpicklingError(f"the file names {module_name}.{global_name}, which no dump does")


def read_dumps(folder: Path) -> dict[int, Dump]:
    """Return the dumps in a folder, by rank. Other files are passed over."""
    found = {}
    for path in sorted(folder.glob("rank_*")):
        match = _NAME.fullmatch(path.name)
        if match and (dump := _read(path)) is not None:
            found[int(match[1])] = dump
    return found


def absent_ranks(dumps: Mapping[int, Dump]) -> list[str]:
    """Return one line for each group in which ranks wait: who waits where, and who has not joined (pure)."""
    lines = []
    for name in sorted({name for dump in dumps.values() for name in dump}):
        states = {rank: dump[name] for rank, dump in dumps.items() if name in dump}
        front = max(states.values(), key=lambda state: state.sequence)
        members = front.members or tuple(sorted(states))
        waiting = [rank for rank in states if states[rank].sequence == front.sequence and not states[rank].is_done]
        behind = [rank for rank in members if rank in states and states[rank].sequence < front.sequence]
        silent = [rank for rank in members if rank not in dumps]
        if waiting and (behind or silent):
            causes = [f"rank {listed(behind)} has not come"] if behind else []
            causes += [f"there is no dump of rank {listed(silent)}"] if silent else []
            place = f"{front.collective} number {front.sequence} of group {front.description}"
            lines.append(f"rank {listed(waiting)} waits in {place}; {', '.join(causes)}")
    return lines


def _read(path: Path) -> Dump | None:
    try:
        if path.stat().st_size > _MOST_BYTES:
            return None
        content = _PlainValues(io.BytesIO(path.read_bytes())).load()
        return _states(content["pg_config"], content["entries"])
    except (OSError, pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return None


def _states(groups: Mapping[str, Mapping[str, str]], entries: Sequence[Mapping[str, Any]]) -> Dump:
    members = {str(group["name"]): tuple(parse_json(group["ranks"])) for group in groups.values()}
    states = {
        name: GroupState(description=_description(name, str(group["desc"])), members=members[name])
        for group in groups.values()
        if (name := str(group["name"]))
    }
    for entry in entries:
        name, text = map(str, entry["process_group"])
        before = states.get(name) or GroupState(description=_description(name, text), members=members.get(name, ()))
        sequence = int(entry["collective_seq_id"])
        if not entry.get("is_p2p") and sequence >= before.sequence:
            states[name] = replace(
                before,
                collective=str(entry["profiling_name"]),
                sequence=sequence,
                is_done=bool(entry.get("retired")) or entry.get("state") == "completed",
            )
    return states


def _description(name: str, text: str) -> str:
    return f"{name} ({text})" if text and text != "undefined" else name
