"""The places to which a run's alerts go, from its configuration: a command, and a file with one address a line.

A line may begin with the least severity that goes there (`page pagerduty://…`), or with the word `escalation` for a
place that is told only of pages that nobody has acknowledged.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from harness.alerts.alert import Severity
from harness.alerts.book import Place
from harness.alerts.delivery import BoundedDelivery, Deliver, by_apprise, by_command
from harness.alerts.webhooks import native_delivery
from harness.errors import UsageError
from harness.run.lines import open_lines

_MOST_ADDRESS_BYTES = 256 * 1024
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,19})://")
"""The first part of an address, which is no secret."""
_ESCALATION = "escalation"
_WORDS = (*Severity, _ESCALATION)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A place, and how a message gets there."""

    place: Place
    deliver: Deliver


class Address(NamedTuple):
    """An address of alerts. Messages name where it stands, since the address itself is a secret."""

    where: str
    url: str


def deliveries(command: Sequence[str], urls_file: Path | None, more_urls: Sequence[str] = ()) -> list[Delivery]:
    """Return the deliveries to all places that are configured.

    Raises:
        UsageError: The file of addresses cannot be read, or others can read it; something in it is no address; or
            apprise is needed and not installed.
    """
    found = []
    if command:
        place = Place(f"{Path(command[0]).name} (command)")
        found.append(Delivery(place=place, deliver=BoundedDelivery(by_command(tuple(command)))))
    given = [Address(f"alert address {number}", url) for number, url in enumerate(more_urls, start=1)]
    return found + [_delivery_to(address) for address in (*_urls_in(urls_file), *given)]


def _delivery_to(address: Address) -> Delivery:
    """Return the delivery to an address.

    Raises:
        UsageError: It is not an address, or apprise is needed and not installed.
    """
    first, space, rest = address.url.partition(" ")
    word, url = (first, rest.strip()) if space and first in _WORDS else (Severity.INFO, address.url)
    scheme = _SCHEME.match(url)
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # its text may hold the address
        scheme = None
    if scheme is None or not url.isprintable():
        raise UsageError(
            f"{address.where}: not the address of a place for alerts, which begins with the kind of place, such as "
            "`slack://` or `https://`. It is not shown, because it may hold a secret"
        )
    digest = blake2b(url.encode(errors="replace"), digest_size=3).hexdigest()
    shown = host if scheme[1] in ("http", "https") else scheme[1]
    escalates = word == _ESCALATION
    place = Place(
        f"{shown} ({digest})",
        least=Severity.PAGE if escalates else Severity(word),
        only_unacknowledged=escalates,
    )
    try:
        deliver = native_delivery(url) or by_apprise(url, scheme[1])
    except UsageError as error:
        raise UsageError(f"{address.where}: {error}") from None
    return Delivery(place=place, deliver=BoundedDelivery(deliver))


def _urls_in(path: Path | None) -> list[Address]:
    """Return the addresses in a file that only its owner can read, one a line; lines with a # are remarks.

    Raises:
        UsageError: It cannot be read, or others can read it too.
    """
    if path is None:
        return []
    name = f"watch.alert_urls_file: {path}"
    try:
        with open_lines(path) as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_ADDRESS_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"watch.alert_urls_file: cannot read {path}: {error.strerror}; it holds one address per line"
        ) from None
    if mode & 0o077:
        raise UsageError(
            f"{name} can be read or written by others (mode {mode:04o}), and addresses hold secrets. Close it with "
            f"`chmod 600 {path}`; if others have seen it, make new addresses"
        )
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8; it holds one address per line") from None
    if len(content) > _MOST_ADDRESS_BYTES:
        raise UsageError(f"{name} is larger than {_MOST_ADDRESS_BYTES >> 10} KiB; it holds one address per line")
    numbered = [(number, line.strip()) for number, line in enumerate(lines, start=1)]
    return [Address(f"{path}:{number}", line) for number, line in numbered if line and not line.startswith("#")]
