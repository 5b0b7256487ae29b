"""Hours in which people are told only what cannot wait, such as `22:00-07:00 Asia/Shanghai`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from datetime import time as time_of_day
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_FORM = re.compile(r"([0-9]{1,2}):([0-9]{2})-([0-9]{1,2}):([0-9]{2})(?: ([A-Za-z0-9_+/-]{1,64}))?")


@dataclass(frozen=True, kw_only=True)
class QuietHours:
    """Hours of every day."""

    begin: time_of_day
    end: time_of_day
    zone: tzinfo | None
    """None is the time zone of this machine."""

    def end_of(self, now: float) -> float:
        """Return the end of the quiet hours in which a moment lies; 0 for a moment outside of them.

        Moments are in seconds since 1970.
        """
        moment = datetime.fromtimestamp(now, self.zone)
        at = moment.time()
        wraps = self.begin >= self.end
        is_quiet = (at >= self.begin or at < self.end) if wraps else self.begin <= at < self.end
        if not is_quiet:
            return 0.0
        day = moment.date() + timedelta(days=1 if wraps and at >= self.begin else 0)
        return datetime.combine(day, self.end, self.zone).timestamp()


def checked_quiet_hours(text: str) -> str:
    """Return the text of quiet hours as it is.

    Raises:
        ValueError: It is something else, as in `parse_quiet_hours`.
    """
    parse_quiet_hours(text)
    return text


def parse_quiet_hours(text: str) -> QuietHours:
    """Return the hours in a text such as `22:00-07:00`, or `22:00-07:00 Europe/Berlin`.

    Raises:
        ValueError: It is something else. The text completes "is …".
    """
    match = _FORM.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        first, second, third, fourth = (int(part) for part in match.groups()[:4])
        begin, end = time_of_day(first, second), time_of_day(third, fourth)
    except ValueError:
        raise ValueError("not of the form 22:00-07:00, or 22:00-07:00 Asia/Shanghai") from None
    if begin == end:
        raise ValueError("all day: then nothing but pages would ever be sent; raise the severity of the addresses")
    try:
        zone = ZoneInfo(match[5]) if match[5] else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"in a time zone that this machine does not know: {match[5]}") from None
    return QuietHours(begin=begin, end=end, zone=zone)
