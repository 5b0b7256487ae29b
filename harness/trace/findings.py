"""The findings of a trace, as plain values that pass between processes as JSON. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Part = Literal["weights", "gradients", "optimizer", "activations", "logits", "temporary"]
"""Purposes of memory. Activations and logits are made in a forward pass, also in one that is repeated; temporary is
what backward, the update and everything else make."""
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A line of code of harness or of megatron-core."""

    file: str
    """Path from the package on, such as `harness/model/norm.py`."""
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, kw_only=True)
class Made:
    """Kind of tensors that one place makes by one operator of torch."""

    part: Part
    place: Place
    operator: str
    shape: tuple[int, ...]
    dtype: str
    """Such as `bfloat16`."""


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """Tensors of one kind: those alive at the peak, or those made in a step."""

    made: Made
    count: int
    num_bytes: int
    """Of all of them, as the allocator rounds."""


@dataclass(frozen=True, kw_only=True)
class HostWait:
    """A place where the host waits for the device in a step."""

    kind: str
    """Such as `item`, or `tensor to device`."""
    place: Place
    count: int


@dataclass(frozen=True, kw_only=True)
class Collective:
    """Collectives of one kind in one group of ranks in a step."""

    kind: str
    """Such as `all-reduce`."""
    group: str
    """Kind of ranks: `tensor`, `pipeline`, `data`, `ends` (of a tied embedding), `world` or `other`."""
    num_ranks: int
    count: int
    num_bytes: int
    """Of the whole tensors: what an all-gather gives, what a reduce-scatter takes."""


@dataclass(frozen=True, kw_only=True)
class StageFindings:
    """Findings of one step of one rank of a pipeline stage."""

    pipeline_rank: int
    num_microbatches: int
    """Micro-batches that were traced: no more than fill the pipeline."""
    peak_bytes: int
    held: tuple[Tensors, ...]
    """Tensors that are alive at the peak, most bytes first."""
    made: tuple[Tensors, ...]
    """Tensors that the step makes, most bytes first; also those that are gone at the peak."""
    host_waits: tuple[HostWait, ...]
    collectives: tuple[Collective, ...]

    @property
    def bytes_by_part(self) -> dict[Part, int]:
        """Bytes at the peak of every part."""
        return {part: sum(held.num_bytes for held in self.held if held.made.part == part) for part in PARTS}

    @property
    def num_host_waits(self) -> int:
        """Times that the host waits for the device."""
        return sum(wait.count for wait in self.host_waits)

    def as_json(self) -> dict[str, Any]:
        """Return the findings as JSON takes them."""
        return asdict(self)

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> StageFindings:
        """Return the findings that `as_json` wrote."""
        return StageFindings(
            pipeline_rank=record["pipeline_rank"],
            num_microbatches=record["num_microbatches"],
            peak_bytes=record["peak_bytes"],
            held=tuple(map(_tensors, record["held"])),
            made=tuple(map(_tensors, record["made"])),
            host_waits=tuple(HostWait(**{**wait, "place": Place(**wait["place"])}) for wait in record["host_waits"]),
            collectives=tuple(Collective(**each) for each in record["collectives"]),
        )


def _tensors(record: Mapping[str, Any]) -> Tensors:
    made = record["made"]
    return Tensors(
        made=Made(**{**made, "place": Place(**made["place"]), "shape": tuple(made["shape"])}),
        count=record["count"],
        num_bytes=record["num_bytes"],
    )
