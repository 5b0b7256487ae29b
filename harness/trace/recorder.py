"""Records what a step asks of a device and of the host, as plain numbers. Knows no torch."""

from __future__ import annotations

from collections import Counter

from harness.trace.findings import Collective, HostWait, Place, StageFindings
from harness.trace.ledger import Ledger


class Recorder:
    """Memory, waits of the host, and collectives of one step of a rank."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._waits: Counter[tuple[str, Place]] = Counter()
        self._collectives: dict[tuple[str, str, int], tuple[int, int]] = {}

    def begin(self) -> None:
        """Begin a step: what came before is not counted, except for what is still allocated."""
        self.ledger.begin()
        self._waits.clear()
        self._collectives.clear()

    def host_waits(self, kind: str, place: Place) -> None:
        """Record that the host waits for the device."""
        self._waits[kind, place] += 1

    def collective(self, kind: str, group: str, *, num_ranks: int, num_bytes: int) -> None:
        """Record a collective, or a message to a rank or from it."""
        count, so_far = self._collectives.get((kind, group, num_ranks), (0, 0))
        self._collectives[kind, group, num_ranks] = (count + 1, so_far + num_bytes)

    def findings(self, *, pipeline_rank: int, num_microbatches: int) -> StageFindings:
        """Return what was recorded since `begin`."""
        peak = self.ledger.peak()
        return StageFindings(
            pipeline_rank=pipeline_rank,
            num_microbatches=num_microbatches,
            peak_bytes=peak.num_bytes,
            held=peak.held,
            made=self.ledger.made(),
            host_waits=tuple(
                HostWait(kind=kind, place=place, count=count) for (kind, place), count in self._waits.most_common()
            ),
            collectives=tuple(
                Collective(kind=kind, group=group, num_ranks=num_ranks, count=count, num_bytes=num_bytes)
                for (kind, group, num_ranks), (count, num_bytes) in self._collectives.items()
            ),
        )
