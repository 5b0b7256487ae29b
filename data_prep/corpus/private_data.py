"""Puts stand-ins in place of private data: mail and network addresses, Chinese telephone and identity numbers."""

from __future__ import annotations

import re

from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.formatters.pii import PIIReplacer

_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECKS = "10X98765432"
MOBILE_NUMBER = r"(?<![\d.])(?:\+?86[- ]?)?1[3-9]\d(?:[- ]?\d{4}){2}(?![\d.])"
IDENTITY_NUMBER = r"(?<!\d)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx](?!\d)"


class PrivateData(PIIFormatter):  # type: ignore[misc] # datatrove has no types
    """datatrove's formatter, and numbers that it does not know."""

    name = "private data"

    def __init__(self) -> None:
        super().__init__()
        self.number_replacers = (
            PIIReplacer(IDENTITY_NUMBER, "110101199001010000", validator=is_identity_number),
            PIIReplacer(MOBILE_NUMBER, "13800000000"),
        )

    def format(self, text: str) -> str:
        """Return the text with stand-ins for private data."""
        for replacer in (self.emails_replacer, self.ip_replacer):
            # The stand-ins alternate. Starting again for each text makes them independent of the texts before it.
            replacer._replace_i = 0
        replaced: str = super().format(text)
        for replacer in self.number_replacers:
            replaced = replacer.replace(replaced)
        return replaced


def is_identity_number(number: str) -> bool:
    """Return whether the last digit of a Chinese identity number is the check digit of the others (GB 11643-1999)."""
    if not re.fullmatch(r"\d{17}[\dXx]", number):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_IDENTITY_WEIGHTS, number, strict=False))
    return _IDENTITY_CHECKS[total % 11] == number[-1].upper()
