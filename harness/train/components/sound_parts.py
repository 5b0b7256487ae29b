"""Soundness of parts, as all ranks know it: each is read by one rank, and told to all in one small reduction.

Shapes: P parts that are looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from harness.data.files.checked import UsedPart
from harness.data.part_checks import Key, PartChecks
from harness.data.stream import StepParts
from harness.errors import DataError
from harness.parallel import collectives
from harness.run.checked_parts import CheckedFile, CheckedPart, CheckedParts, FileState

_SOUND, _DAMAGED = 1, 2
_COLUMNS = 11
"""The verdict, and of both files four numbers of their state and the hash."""


class Damage(NamedTuple):
    """A part that is damaged."""

    part: Key
    reason: str
    used_since: int | None
    """First step of this launch that was trained on its samples; None if there was none."""


class Learnt(NamedTuple):
    """The news of one exchange."""

    sound: tuple[CheckedPart, ...]
    damages: tuple[Damage, ...]
    healed: tuple[Key, ...]
    """Parts that were damaged, and are sound again."""


class SoundParts:
    """The parts known to be sound, the same on all ranks: they call its methods at the same steps."""

    def __init__(self, checks: PartChecks, device: torch.device, earlier: CheckedParts) -> None:
        """Begin with nothing to look at; `earlier` is what is written down of earlier launches."""
        self._checks = checks
        self._written = dict(earlier)
        self._device = device
        self._sound: dict[Key, CheckedPart] = {}
        self._damaged: dict[Key, Damage] = {}
        self._used_since: dict[Key, int] = {}
        self._following: dict[str, tuple[UsedPart, ...]] = {}
        self._looked_at: dict[Key, UsedPart] = {}

    def follow(self, parts: StepParts, held_out: tuple[UsedPart, ...]) -> None:
        """Look at the parts of the next step, at those of held-out samples, and at those whose turns come next."""
        is_known = all(self._following.get(name) is following for name, following in parts.following.items())
        if is_known and all(part.key in self._looked_at for part in (*parts.used, *held_out)):
            return
        self._following |= parts.following
        ahead = (part for parts in self._following.values() for part in parts)
        self._looked_at = {part.key: part for part in (*parts.used, *held_out, *ahead)}
        self._checks.want(tuple(self._looked_at.values()))

    def unknown(self, parts: tuple[UsedPart, ...]) -> tuple[UsedPart, ...]:
        """Return those of the parts that are not known to be sound, nor to be damaged."""
        return tuple(part for part in parts if part.key not in self._sound and part.key not in self._damaged)

    def fatal(self, parts: tuple[UsedPart, ...]) -> list[Damage]:
        """Return the damaged ones of these parts, and those that steps of this launch were trained on."""
        keys = {part.key for part in parts}
        return [each for key, each in self._damaged.items() if key in keys or each.used_since is not None]

    def use(self, parts: tuple[UsedPart, ...], step: int) -> None:
        """Note that a step is trained on samples of these parts."""
        for part in parts:
            if self._used_since.setdefault(part.key, step) == step and part.key in self._damaged:
                self._damaged[part.key] = self._damaged[part.key]._replace(used_since=step)

    def know(self, checked: CheckedParts) -> None:
        """Take over checks of parts that have just arrived, the same on all ranks."""
        self._checks.know(checked)
        self._sound.update(checked)
        self._written.update(checked)

    def has_news(self) -> bool:
        """Return whether this rank has something to tell."""
        return self._checks.has_news()

    def learn(self) -> Learnt:
        """Exchange what the ranks have found, and return what was not known. Every rank must call it."""
        keys = tuple(self._looked_at)
        own = self._checks.tell(keys)
        sound, damaged = self._exchanged(keys, own)
        fresh = tuple(part for part in sound if self._written.get(part.key) != part)
        healed = tuple(part.key for part in sound if self._damaged.pop(part.key, None))
        self._sound.update({part.key: part for part in sound})
        self._written.update({part.key: part for part in fresh})
        damages: tuple[Damage, ...] = ()
        if unheard := sorted(damaged - self._damaged.keys()):
            mine = {key: str(finding) for key, finding in own.items() if isinstance(finding, DataError)}
            reasons = {key: reason for found in collectives.gathered(mine) for key, reason in found.items()}
            damages = tuple(Damage(key, reasons[key], self._used_since.get(key)) for key in unheard)
        for damage in damages:
            self._damaged[damage.part] = damage
            self._sound.pop(damage.part, None)
        return Learnt(fresh, damages, healed)

    def close(self) -> None:
        """End the thread that reads parts."""
        self._checks.close()

    def _exchanged(
        self, keys: tuple[Key, ...], own: dict[Key, CheckedPart | DataError]
    ) -> tuple[list[CheckedPart], set[Key]]:
        """Return the sound and the damaged parts among these, as all ranks have found them.

        On other ranks than its own a part is a row of zeros: the sum over the ranks is its row.
        """
        rows = torch.tensor([_row(own.get(key)) for key in keys], dtype=torch.int64).reshape(len(keys), _COLUMNS)
        summed = collectives.sum_over(rows.to(self._device)).tolist()  # [P, columns]
        found = list(zip(keys, summed, strict=True))
        sound = [_checked(key, row) for key, row in found if row[0] == _SOUND]
        return sound, {key for key, row in found if row[0] == _DAMAGED}


def _row(finding: CheckedPart | DataError | None) -> list[int]:
    if finding is None:
        return [0] * _COLUMNS
    if isinstance(finding, DataError):
        return [_DAMAGED, *[0] * (_COLUMNS - 1)]
    files = ((*file.state, _signed(int(file.xxh3, 16))) for file in (finding.bin, finding.idx))
    return [_SOUND, *(number for file in files for number in file)]


def _checked(key: Key, row: list[int]) -> CheckedPart:
    tokens, index = (CheckedFile(FileState(*row[at : at + 4]), f"{row[at + 4] % 2**64:016x}") for at in (1, 6))
    return CheckedPart(*key, bin=tokens, idx=index)


def _signed(number: int) -> int:
    """Return a number of 64 bits as an int64 has it."""
    return number - 2**64 if number >= 2**63 else number
