"""Events about files that people should know of, as alerts."""

from __future__ import annotations

from harness.alerts.alert import Alert, Kind
from harness.run.event_types import FileLost, PartDamaged, PartsRefused, SaveFailed, WaitingForParts

SAVE, WAITS = "save", "data-waits"
"""Keys of what is over when a save succeeds, or when parts come."""


def trouble(event: WaitingForParts | PartsRefused | PartDamaged | FileLost | SaveFailed) -> Alert:
    """Return the alert about trouble with files."""
    step = event.step
    match event:
        case WaitingForParts():
            text = f"training waits for further parts, because no data is left in {', '.join(event.channels)}"
            return Alert(key=WAITS, kind=Kind.DATA, text=text, lasts=True, step=step)
        case PartsRefused():
            text = f"parts of the data were refused: {event.reason}"
            return Alert(key=f"parts-refused-{event.time}", kind=Kind.DATA, text=text, step=step)
        case PartDamaged():
            text = f"a part of the data is damaged: {event.reason}"
            key = f"part-damaged-{event.channel}-{event.part}"
            return Alert(key=key, kind=Kind.DATA, text=text, step=step, channel=event.channel)
        case FileLost():
            return Alert(key=f"file-{event.file}", kind=Kind.FILE, text=event.reason, step=step)
        case SaveFailed():
            text = f"the checkpoint could not be saved: {event.reason}"
            return Alert(key=SAVE, kind=Kind.SAVE_FAILED, text=text, lasts=True, step=step)
