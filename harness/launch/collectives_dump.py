"""Finds the ranks that have not joined a collective in which others wait, from the dumps of torch's flight recorder.

Those of a node are in `flight_recorder/node_00000.tar`, or beside it where no launcher of ours gathers them. A dump,
`rank_3`, is a pickle of plain values, which names nothing. These fields of it are used (version 2 of the format, torch
2.4 and later):

    {"pg_config": {"0": {"name": "0", "desc": "default_pg", "ranks": "[0, 1]"}},
     "entries": [{"process_group": ("0", "default_pg"), "collective_seq_id": 5, "profiling_name": "nccl:all_reduce",
                  "is_p2p": False, "state": "scheduled", "retired": False, …}]}
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.json_text import parse_json
from harness.plain_pickle import read_pickle
from harness.run.files import read_regular
from harness.text import listed

_MOST_BYTES = 128 * 2**20
_MOST_NODE_BYTES = 1024 * 2**20
_MOST_STEPS = 2**23
"""Instructions of a dump. One of 2,000 collectives, as many as torch keeps, has an eighth of it."""
_MOST_RANKS = 2**20
_MOST_SHOWN = 200
FLIGHT_RECORDER = "flight_recorder"
"""Folder of the dumps in that of a launch."""
_NAME = re.compile(r"rank_([0-9]{1,9})")


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


def read_dumps(folder: Path) -> dict[int, Dump]:
    """Return the dumps in a folder, by rank. Other files are passed over."""
    found: dict[int, Dump] = {}
    members: dict[str, tuple[int, ...]] = {}
    for name, content in _files(folder):
        match = _NAME.fullmatch(name)
        if match and len(content) <= _MOST_BYTES and (dump := _parsed(content, members)) is not None:
            found[int(match[1])] = dump
    return found


def node_dumps(launch: Path, index: int) -> Path:
    """Return the archive of a node's dumps, in the folder of a launch."""
    return launch / FLIGHT_RECORDER / f"node_{index:05d}.tar"


def _files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file of a rank, out of archives and beside them. What cannot be read is not."""
    for path in sorted(folder.glob("rank_*")):
        with suppress(OSError):
            yield path.name, read_regular(path, _MOST_BYTES)
    for path in sorted(folder.glob("node_*.tar")):
        with suppress(OSError, ValueError, tarfile.TarError):
            yield from _members(read_regular(path, _MOST_NODE_BYTES))


def _members(content: bytes) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
        for entry in archive:  # a sparse one may claim to be larger than the archive
            if entry.isreg() and not entry.issparse() and (file := archive.extractfile(entry)) is not None:
                yield entry.name, file.read(_MOST_BYTES + 1)


def absent_ranks(dumps: Mapping[int, Dump]) -> list[str]:
    """Return one line for each group in which ranks wait: who waits where, and who has not joined (pure)."""
    by_group: dict[str, dict[int, GroupState]] = {}
    for rank, dump in dumps.items():
        for name, state in dump.items():
            by_group.setdefault(name, {})[rank] = state
    lines = []
    for _, states in sorted(by_group.items()):
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


def _parsed(content: bytes, members: dict[str, tuple[int, ...]]) -> Dump | None:
    try:
        found = read_pickle(content, most_steps=_MOST_STEPS)
        fields = _mapping(found)
        return _states(_mapping(fields.get("pg_config")), _list(fields.get("entries")), members)
    except ValueError:
        return None


def _states(groups: Mapping[Any, Any], entries: Sequence[Any], members: dict[str, tuple[int, ...]]) -> Dump:
    """Return the states in a dump. `members` has ranks by the text that lists them, which groups and dumps share."""
    states: dict[str, GroupState] = {}
    for group in map(_mapping, groups.values()):
        name, ranks = _text(group.get("name")), _text(group.get("ranks"))
        if ranks not in members:
            members[ranks] = _ranks(ranks)
        states[name] = GroupState(description=_description(name, _text(group.get("desc"))), members=members[ranks])
    for entry in map(_mapping, entries):
        name, text = _pair(entry.get("process_group"))
        before = states.get(name) or GroupState(description=_description(name, text), members=())
        sequence = _count(entry.get("collective_seq_id"))
        if not entry.get("is_p2p") and sequence >= before.sequence:
            states[name] = replace(
                before,
                collective=_text(entry.get("profiling_name"))[:_MOST_SHOWN],
                sequence=sequence,
                is_done=bool(entry.get("retired")) or entry.get("state") == "completed",
            )
    return states


def _ranks(text: str) -> tuple[int, ...]:
    """Return the ranks of a group, which a dump lists as JSON."""
    return tuple(_count(rank, most=_MOST_RANKS) for rank in _list(parse_json(text)))


def _mapping(value: object) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError("no mapping")
    return value


def _list(value: object) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def _pair(value: object) -> tuple[str, str]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError("no pair")
    return _text(value[0]), _text(value[1])


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")
    return value


def _count(value: object, most: int = 2**63) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError("no count")
    return value


def _description(name: str, text: str) -> str:
    name, text = name[:_MOST_SHOWN], text[:_MOST_SHOWN]
    return f"{name} ({text})" if text and text != "undefined" else name
