"""A command to a running job, and the two forms in which people and programs write one.

- An empty file named after the kind: `save`, `stop` or `save-and-stop`. Text in it is taken as the reason.
- A JSON file `<anything>.json`: `{"kind": "save", "reason": "before the maintenance"}`; the reason may be left out.
  The other kinds have only this form, and most have more fields: see `harness.run.commands.requests`.
"""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass

import xxhash

from harness.json_text import parse_json
from harness.run.commands.kinds import CommandKind
from harness.run.commands.requests import PLAIN_KINDS, AnyRequest, UnreadableCommandError, fields_of, make_request
from harness.text import is_unicode

MAX_REASON_LENGTH = 1000


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command, the same on all ranks."""

    request: AnyRequest
    reason: str
    """Reason in the words of the person or program that gave it; may be empty."""
    source: str
    """Name of the command's file, or of the operating system's signal (`SIGTERM`)."""
    id: str
    """Distinguishes commands of one source, as `save` may be given again and again."""
    fingerprint: str = ""
    """Hash of the file's name, content and time of change. A command that is found again after a crash has the same
    one. A command that is given again in the same words has another one."""

    @property
    def kind(self) -> CommandKind:
        """The kind of its request."""
        return self.request.kind


def is_command_name(name: str) -> bool:
    """Return whether a file of this name can be a command."""
    return name in PLAIN_KINDS or (name.endswith(".json") and is_unicode(name))


def require_command_name(name: str) -> None:
    """Return if a file of this name can be a command.

    Raises:
        UnreadableCommandError: It cannot.
    """
    if not is_unicode(name):
        raise UnreadableCommandError("its name is not UTF-8; rename it to give the command")
    if not is_command_name(name):
        raise UnreadableCommandError(f"{name!r} is not a command; {_advice(name)}")


def parse_command(name: str, content: bytes, command_id: str, changed_ns: int = 0) -> Command:
    """Return the command in a file that was last changed `changed_ns` nanoseconds after 1970.

    Raises:
        UnreadableCommandError: The name is not that of a command, or the JSON is broken, incomplete or of unknown kind.
    """
    if name in PLAIN_KINDS:
        text = _printable(content.decode(errors="replace"))
        return Command(request=make_request(CommandKind(name), {}), reason=text, source=name, id=command_id)
    require_command_name(name)
    fields = _parse_object(content)
    kind: object = fields.pop("kind", None)
    reason: object = fields.pop("reason", "")
    if not isinstance(kind, str) or kind not in tuple(CommandKind):
        raise UnreadableCommandError(f'"kind" is {_shown(kind)}; allowed: {", ".join(CommandKind)}')
    if not isinstance(reason, str):
        raise UnreadableCommandError(f'"reason" is {_shown(reason)}; it must be text')
    allowed = ("kind", "reason", *fields_of(CommandKind(kind)))
    if unknown := sorted(fields.keys() - set(allowed)):
        names = ", ".join(f'"{key}"' for key in allowed)
        raise UnreadableCommandError(f"unknown key {_shown(unknown[0])}; allowed: {names}")
    return Command(
        request=make_request(CommandKind(kind), fields),
        reason=_printable(reason),
        source=name,
        id=command_id,
        fingerprint=xxhash.xxh3_64_hexdigest(f"{name}/{changed_ns}/".encode() + content),
    )


def _parse_object(content: bytes) -> dict[str, object]:
    try:
        fields = parse_json(content)
    except ValueError as error:
        raise UnreadableCommandError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UnreadableCommandError('not a JSON object; write {"kind": "save", "reason": "…"}')
    return fields


def _advice(name: str) -> str:
    allowed = f"a command is an empty file named after its kind ({', '.join(PLAIN_KINDS)}) or a file `….json`"
    similar = difflib.get_close_matches(name, list(PLAIN_KINDS), n=1)
    return f"{allowed}; did you mean `{similar[0]}`?" if similar else allowed


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _printable(text: str) -> str:
    """Return the text on one line without control characters: it is shown on terminals and written to logs."""
    return "".join(letter if letter.isprintable() else " " for letter in text.strip())[:MAX_REASON_LENGTH]
