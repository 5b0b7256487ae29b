"""What must hold of every command, whatever it was given. Problems of one kind are counted once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from forked import Limits, Outcome

_MESSAGE = b"harness: error: "
_LONGEST_MESSAGE = 20_000
"""Bytes of a message: what was given is quoted, not repeated."""
_FRAME = re.compile(r'^ *File "([^"]+)", line \d+,? in (\S+)', re.MULTILINE)
_ALIEN = re.compile(rb"Traceback \(most recent call last\)|PanicException|panicked at|terminate called|Segmentation")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COMPLAINS = (64, 65)


@dataclass(frozen=True)
class Problem:
    """Something that did not hold."""

    kind: str
    """Equal for what has most likely one root."""
    text: str


def generic_problems(outcome: Outcome, codes: Sequence[int], silent: Sequence[int], limits: Limits) -> list[Problem]:
    """What is wrong with how a command ended and what it said.

    Args:
        outcome: How it ended.
        codes: Its documented exit codes.
        silent: Those of them whose reason is in its output, not in a message.
        limits: What it may take.
    """
    return list(_problems(outcome, codes, silent, limits))


def _problems(outcome: Outcome, codes: Sequence[int], silent: Sequence[int], limits: Limits) -> Iterator[Problem]:
    said = outcome.output + outcome.errors
    if outcome.hangs:
        yield Problem(f"hangs in {_place(said)}", f"it was not done after {limits.wall_s:g} s")
        return
    if _ALIEN.search(said):
        last = _last_line(said)
        yield Problem(f"traceback: {_kind_of(last)} in {_place(said)}", last)
        return
    if outcome.code not in codes:
        yield Problem(f"exit code {outcome.code}", f"exit code {outcome.code}; documented are {list(codes)}")
    if outcome.processor_s > limits.processor_s:
        yield Problem("slow", f"{outcome.processor_s:.1f} s of processor time, at most {limits.processor_s:g} s")
    if outcome.grown_bytes > limits.memory_bytes:
        yield Problem("memory", f"{outcome.grown_bytes >> 20:,} MiB, at most {limits.memory_bytes >> 20:,} MiB")
    if outcome.code in _COMPLAINS:
        yield from _message_problems(outcome, silent)
    for name, content in (("output", outcome.output), ("standard error", outcome.errors)):
        if found := _unprintable(content):
            yield Problem(f"control character in the {name}", f"{found!r} in the {name}")
    if outcome.code == 0 and "--json" in outcome.arguments and (fault := json_fault(outcome.output)):
        yield Problem("output is not JSON", fault)


def _message_problems(outcome: Outcome, silent: Sequence[int]) -> Iterator[Problem]:
    count = (b"\n" + outcome.errors).count(b"\n" + _MESSAGE)
    if count != 1 and not (count == 0 and outcome.code in silent):
        yield Problem(f"{count} messages", f"{count} messages in {outcome.errors[-300:]!r}")
    if len(outcome.errors) > _LONGEST_MESSAGE:
        yield Problem("long message", f"{len(outcome.errors):,} bytes: {outcome.errors[:200]!r}…")


def _unprintable(content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        if len(content) >= 1 << 22:  # cut where it was read
            return ""
        return str(error)[:100]
    found = _CONTROL.search(text)
    return text[max(0, found.start() - 20) : found.end() + 20] if found else ""


def json_fault(content: bytes) -> str:
    """Why a text is not one value, or lines of values, of JSON; empty if it is."""
    try:
        json.loads(content, parse_constant=_refuse)
    except ValueError as error:
        try:
            for line in content.splitlines():
                json.loads(line, parse_constant=_refuse)
        except ValueError:
            return f"{error}: {content[:200]!r}"
    return ""


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _place(said: bytes) -> str:
    """The innermost of our functions in the last traceback."""
    frames = _FRAME.findall(said.decode(errors="replace"))
    ours = [
        f"{path.rpartition('/harness/')[2] or path}:{name}"
        for path, name in frames
        if any(f"/{package}/" in path for package in ("harness", "data_prep", "checkpoint_tools"))
        and "site-packages" not in path
        and "/tests/" not in path
    ]
    if not ours:
        return "nowhere"
    # faulthandler writes the innermost frame first, a traceback last
    chosen = ours[-1] if b"most recent call last" in said else ours[0]
    return chosen.split("wt-fuzz/")[-1]


def _last_line(said: bytes) -> str:
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[A-Za-z_.]+(Error|Exception|Exit|Interrupt|Warning)\b", line)]
    return (errors or lines)[-1][:500]


def _kind_of(line: str) -> str:
    return line.split(":")[0][:80]
