"""An order to a running job, and the two forms in which people and programs write one.

- An empty file named after the kind: `save`, `stop` or `save-and-stop`. Text in it is taken as the reason.
- A JSON file `<anything>.json`: `{"kind": "save", "reason": "before the maintenance"}`; the reason may be left out.
  The other kinds have only this form, and `rollback`, `evidence`, `mark` and `quarantine` have more fields: see
  `harness.run.commands.rollback`, `evidence_request`, `mark_request` and `quarantine_request`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import xxhash

from harness.run.commands import evidence as evidence_request
from harness.run.commands import mark as mark_request
from harness.run.commands import quarantine as quarantine_request
from harness.run.commands import rollback as rollback_request
from harness.run.commands.evidence import EvidenceRequest, UnreadableEvidenceError, parse_evidence_request
from harness.run.commands.mark import MarkRequest, UnreadableMarkError, parse_mark_request
from harness.run.commands.quarantine import (
    QuarantineRequest,
    UnreadableQuarantineError,
    parse_quarantine_request,
)
from harness.run.commands.rollback import RollbackRequest, UnreadableRequestError, parse_request

MAX_REASON_LENGTH = 1000


class OrderKind(StrEnum):
    """What can be ordered."""

    SAVE = "save"
    """Save a checkpoint and go on."""
    STOP = "stop"
    """Leave at the end of this step without saving."""
    SAVE_AND_STOP = "save-and-stop"
    """Save a checkpoint, then leave."""
    ROLLBACK = "rollback"
    """Return to an earlier checkpoint, and skip samples."""
    STOP_FOR_PERSON = "stop-for-person"
    """Leave at the end of this step without saving, with the exit code that says that a person must look."""
    EVIDENCE = "evidence"
    """Write down what the samples of some steps lose now, and go on as if nothing had happened."""
    MARK = "mark"
    """Enter a health into the manifests of checkpoints, and go on."""
    QUARANTINE = "quarantine"
    """Keep documents out of every later sample, and go on."""


KINDS = ", ".join(OrderKind)
PLAIN_KINDS = (OrderKind.SAVE, OrderKind.STOP, OrderKind.SAVE_AND_STOP)
"""What an empty file can order."""
PATIENT_KINDS = (OrderKind.SAVE, OrderKind.EVIDENCE, OrderKind.MARK, OrderKind.QUARANTINE)
"""What need not interrupt anything, because training goes on unchanged afterwards."""
_KEYS = {
    OrderKind.ROLLBACK: rollback_request.KEYS,
    OrderKind.EVIDENCE: evidence_request.KEYS,
    OrderKind.MARK: mark_request.KEYS,
    OrderKind.QUARANTINE: quarantine_request.KEYS,
}
"""What an order of a kind says besides its reason."""

Request = RollbackRequest | EvidenceRequest | MarkRequest | QuarantineRequest


@dataclass(frozen=True, kw_only=True)
class Order:
    """One order, as all ranks get it."""

    kind: OrderKind
    reason: str
    """Why, in the words of whoever gave it; may be empty."""
    source: str
    """Name of the order's file, or of the operating system's signal (`SIGTERM`)."""
    id: str
    """Tells apart orders of one source, as `save` may be ordered again and again."""
    rollback: RollbackRequest | None = None
    """What a rollback asks for."""
    evidence: EvidenceRequest | None = None
    """What an order for evidence asks for."""
    mark: MarkRequest | None = None
    """What an order to mark checkpoints asks for."""
    quarantine: QuarantineRequest | None = None
    """What an order about documents asks for."""
    fingerprint: str = ""
    """Hash of the file's name, content and time of change: the order found again after a crash has the same one, and
    one that is given again in the same words another."""


class UnreadableOrderError(ValueError):
    """A file that is no order; the text says why."""


def is_order_name(name: str) -> bool:
    """Whether a file of this name can be an order."""
    return name in PLAIN_KINDS or name.endswith(".json")


def parse_order(name: str, content: bytes, order_id: str, changed_ns: int = 0) -> Order:
    """The order in a file.

    Args:
        name: The file's name.
        content: What is in it.
        order_id: What to call the order.
        changed_ns: When the file was changed last, in nanoseconds since 1970.

    Raises:
        UnreadableOrderError: The name is no order's name, or the JSON is broken, incomplete or of an unknown kind.
    """
    if name in PLAIN_KINDS:
        return Order(
            kind=OrderKind(name), reason=_printable(content.decode(errors="replace")), source=name, id=order_id
        )
    if not name.endswith(".json"):
        raise UnreadableOrderError(f"{name!r} is no order; {_advice(name)}")
    fields = _parse_object(content)
    kind, reason = fields.get("kind"), fields.get("reason", "")
    if not isinstance(kind, str) or kind not in tuple(OrderKind):
        raise UnreadableOrderError(f'"kind" is {_shown(kind)}; allowed: {KINDS}')
    if not isinstance(reason, str):
        raise UnreadableOrderError(f'"reason" is {_shown(reason)}; it must be text')
    allowed = ("kind", "reason", *_KEYS.get(OrderKind(kind), ()))
    if unknown := sorted(fields.keys() - set(allowed)):
        names = ", ".join(f'"{key}"' for key in allowed)
        raise UnreadableOrderError(f"unknown key {_shown(unknown[0])}; allowed: {names}")
    request = _request(OrderKind(kind), fields)
    return Order(
        kind=OrderKind(kind),
        reason=_printable(reason),
        source=name,
        id=order_id,
        rollback=request if isinstance(request, RollbackRequest) else None,
        evidence=request if isinstance(request, EvidenceRequest) else None,
        mark=request if isinstance(request, MarkRequest) else None,
        quarantine=request if isinstance(request, QuarantineRequest) else None,
        fingerprint=xxhash.xxh3_64_hexdigest(f"{name}/{changed_ns}/".encode() + content),
    )


def _request(kind: OrderKind, fields: Mapping[str, object]) -> Request | None:
    try:
        if kind is OrderKind.ROLLBACK:
            return parse_request(fields)
        if kind is OrderKind.EVIDENCE:
            return parse_evidence_request(fields)
        if kind is OrderKind.QUARANTINE:
            return parse_quarantine_request(fields)
        return parse_mark_request(fields) if kind is OrderKind.MARK else None
    except (UnreadableRequestError, UnreadableEvidenceError, UnreadableMarkError, UnreadableQuarantineError) as error:
        raise UnreadableOrderError(str(error)) from None


def _parse_object(content: bytes) -> dict[str, object]:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableOrderError(f"not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UnreadableOrderError('not a JSON object; write {"kind": "save", "reason": "…"}')
    return fields


def _advice(name: str) -> str:
    allowed = f"an order is an empty file named after its kind ({', '.join(PLAIN_KINDS)}) or a file `….json`"
    similar = difflib.get_close_matches(name, list(PLAIN_KINDS), n=1)
    return f"{allowed}; did you mean `{similar[0]}`?" if similar else allowed


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _printable(text: str) -> str:
    """The text on one line without control characters: it is shown on terminals and written to logs."""
    return "".join(letter if letter.isprintable() else " " for letter in text.strip())[:MAX_REASON_LENGTH]
