"""The part of a proof that leaves nothing out: every value that was written equals its source.

Logits see the layers that fit into memory, and the rows of a vocabulary that occur in a prompt. Here one tensor is in
memory at a time. The files are read again, by other ways than the conversion took: Hugging Face's by their own library,
ours chunk by chunk as it is stored. What one direction splits is joined, and what one joins is split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from checkpoint_tools.families.family import Move
from checkpoint_tools.growth import OF_EXPERTS, Growth
from checkpoint_tools.number_formats import Loss, are_equal, format_name, loss_of, require_fits
from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.their_tensors import TheirTensors
from harness.errors import CheckpointError
from harness.parameters.names import in_layer, split_layer
from harness.parameters.table import find_parameter

NOT_THE_SAME = "The converted model is not the same model"
NOT_PUBLISHED = "It was not published."
_OF_MLP = {mlp: experts for experts, mlp in OF_EXPERTS.items()}
_ROUNDING = 4.0
"""Steps of the number format by which the mean of a vocabulary may be off: it is summed in another order here."""


@dataclass(frozen=True, kw_only=True)
class ComparedValues:
    """Extent of a comparison."""

    num_tensors: int
    """Tensors of the Hugging Face model."""
    num_rows: int
    """Rows of the embedding and of the output layer in our checkpoint, padding left out."""
    formats: tuple[str, ...]
    """Number formats of ours, and of theirs if they are others."""
    num_vanished: int = 0
    """Values of ours that are not zero, and are in their format."""


def require_same_values(ours: OurTensors, theirs: TheirTensors, growth: Growth) -> ComparedValues:
    """Compare every value of a checkpoint with the Hugging Face model's; with `growth` the checkpoint is larger.

    Ours are rounded to their format first. What that changes must be no more than the format's precision.

    Raises:
        CheckpointError: One differs, or is not finite. Names the tensors and the row.
    """
    num_rows = num_vanished = 0
    formats: dict[str, None] = {}
    for move in theirs.family.moves(theirs.model):
        parts = [theirs.read(name) for name in move.theirs]
        for name, part in zip(move.theirs, parts, strict=True):
            require_fits(name, part, part.dtype)
        joined = move.fusion.join(parts, theirs.model)
        _require_undone(move, parts, joined, theirs)
        for name, wanted in _places(move, joined, theirs, growth):
            formats |= dict.fromkeys((format_name(ours.dtype(name)), format_name(wanted.dtype)))
            num_rows += _require_equal(ours, name, move, wanted, theirs)
            num_vanished += _require_little_lost(ours, name, wanted.dtype)
    return ComparedValues(
        num_tensors=len(theirs.names), num_rows=num_rows, formats=tuple(formats), num_vanished=num_vanished
    )


def _require_undone(move: Move, parts: Sequence[torch.Tensor], joined: torch.Tensor, theirs: TheirTensors) -> None:
    """Check that splitting gives back what was joined, so that neither of the two can be wrong alone."""
    for name, part, again in zip(move.theirs, parts, move.fusion.split(joined, theirs.model), strict=True):
        if not are_equal(part, again):
            raise CheckpointError(f"{NOT_THE_SAME}: {name} does not come back out of {move.ours}. {NOT_PUBLISHED}")


def _places(
    move: Move, joined: torch.Tensor, theirs: TheirTensors, growth: Growth
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the names under which a tensor stands in the checkpoint, and what it must hold there."""
    layer, rest = split_layer(move.ours)
    if layer is None:
        yield move.ours, joined
        return
    is_silent = find_parameter(move.ours, theirs.model).writes_to_residual
    place = growth.first_layers(layer)
    if growth.num_experts is not None and rest in _OF_MLP:
        rest, joined = _OF_MLP[rest], joined[None].expand(growth.num_experts, *joined.shape)
    yield in_layer(place, rest), joined
    if layer in growth.copied_layers:
        yield in_layer(place + 1, rest), torch.zeros_like(joined) if is_silent else joined


def _require_equal(ours: OurTensors, name: str, move: Move, wanted: torch.Tensor, theirs: TheirTensors) -> int:
    """Compare a tensor of the checkpoint; return the rows of a vocabulary that it has."""
    num_rows = find_parameter(name, ours.model).num_true_rows
    old_rows = theirs.model.vocab_size
    mean = None if num_rows in (None, old_rows) else wanted[:old_rows].double().mean(dim=0)
    for region, block in ours.blocks(name):
        rounded = block.to(wanted.dtype)
        if num_rows is None:
            _compare(move, rounded, wanted[region], region)
            continue
        start = region[0].start
        old, new = (max(0, min(end, region[0].stop) - start) for end in (old_rows, num_rows))
        _compare(move, rounded[:old], wanted[region][:old], region)
        if mean is not None:
            _require_mean(name, rounded[old:new], mean[region[1:]], start + old)
    return num_rows or 0


def _require_little_lost(ours: OurTensors, name: str, dtype: torch.dtype) -> int:
    """Compare a tensor of the checkpoint with what rounding leaves of it; return how many of its values are then zero.

    Raises:
        CheckpointError: More is lost than a format's precision.
    """
    if ours.dtype(name) == dtype:
        return 0
    lost = sum((loss_of(block, dtype) for _, block in ours.blocks(name)), start=Loss())
    if problem := lost.problem(dtype):
        raise CheckpointError(f"{NOT_THE_SAME}: {name}: {problem}. {NOT_PUBLISHED}")
    return lost.num_vanished


def _compare(move: Move, found: torch.Tensor, wanted: torch.Tensor, region: tuple[slice, ...]) -> None:
    if are_equal(found, wanted):
        return
    different = (found != wanted).reshape(len(found), -1)
    row = int(different.any(dim=1).nonzero()[0])
    largest = float((found.float() - wanted.float()).abs().max())
    raise CheckpointError(
        f"{NOT_THE_SAME}: {', '.join(move.theirs)} and {move.ours} differ in {int(different.sum()):,} values, first in "
        f"row {region[0].start + row} of ours, by up to {largest:.3g}. {NOT_PUBLISHED}"
    )


def _require_mean(name: str, rows: torch.Tensor, mean: torch.Tensor, first_row: int) -> None:
    """Check that new rows of a vocabulary are the mean of the others."""
    bound = _ROUNDING * torch.finfo(rows.dtype).eps * (mean.abs() + mean.abs().max())
    wrong = ((rows.double() - mean).abs() > bound).any(dim=1)
    if bool(wrong.any()):
        raise CheckpointError(
            f"{NOT_THE_SAME}: row {first_row + int(wrong.nonzero()[0])} of {name} is new, and not the mean of the "
            f"others. {NOT_PUBLISHED}"
        )
