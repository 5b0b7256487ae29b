"""Checks that a folder holds exactly the model of its `config.json`, from names, shapes and number formats.

Everything that reads a Hugging Face model's weights asks here first: its conversion, and every comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from checkpoint_tools.conversion_plan import require_complete
from checkpoint_tools.families.family import Move
from checkpoint_tools.number_formats import format_name
from checkpoint_tools.their_tensors import COMPUTED, TheirTensors
from harness.errors import CheckpointError
from harness.parameters.names import EMBEDDING, split_layer
from harness.parameters.table import find_parameter

_MOST_SHOWN = 10


def checked_moves(theirs: TheirTensors) -> dict[str, Move]:
    """Return the tensors of a model by our names, after it was checked that they can be read.

    Raises:
        CheckpointError: A tensor is missing or left over, has another shape or a format that is none of weights; or
            an output layer beside a tied embedding is another one.
    """
    moves = {move.ours: move for move in theirs.family.moves(theirs.model)}
    require_complete(theirs.names, (name for move in moves.values() for name in move.theirs), str(theirs.path))
    _require_shapes(theirs, moves.values())
    _require_formats(theirs, moves.values(), lambda move: move.ours)
    _require_tied(theirs, moves[EMBEDDING])
    return moves


def require_stackable(theirs: TheirTensors, moves: Iterable[Move]) -> None:
    """Check that the tensors of all layers can stand in a checkpoint as one, and so in one number format.

    Raises:
        CheckpointError: They cannot; names two that differ.
    """
    _require_formats(theirs, moves, lambda move: split_layer(move.ours)[1])


def _require_shapes(theirs: TheirTensors, moves: Iterable[Move]) -> None:
    problems: list[str] = []
    for move in moves:
        ours = torch.empty(find_parameter(move.ours, theirs.model).shape, device="meta")
        for name, part in zip(move.theirs, move.fusion.split(ours, theirs.model), strict=True):
            shape, _ = theirs.described(name)
            if shape != tuple(part.shape):
                problems.append(f"{name}: {list(shape)}, wanted is {list(part.shape)}")
    if problems:
        rest = [f"{len(problems) - _MOST_SHOWN} more"] if len(problems) > _MOST_SHOWN else []
        lines = "\n  ".join([*problems[:_MOST_SHOWN], *rest])
        raise CheckpointError(f"{theirs.path} has tensors of other shapes than its config.json says:\n  {lines}")


def _require_formats(theirs: TheirTensors, moves: Iterable[Move], whole: Callable[[Move], str]) -> None:
    seen: dict[str, tuple[str, torch.dtype]] = {}
    for move in moves:
        for name in move.theirs:
            _, dtype = theirs.described(name)
            first, known = seen.setdefault(whole(move), (name, dtype))
            if dtype != known:
                raise CheckpointError(
                    f"{theirs.path}: {first} is {format_name(known)}, {name} is {format_name(dtype)}, but both belong "
                    "to one tensor of a checkpoint. Save the model in one number format."
                )


def _require_tied(theirs: TheirTensors, move: Move) -> None:
    """An output layer beside a tied embedding must be that embedding: readers disagree on which of the two counts."""
    (embedding,) = move.theirs
    wanted, _ = theirs.described(embedding)
    for name in theirs.left_out:
        if name not in theirs.family.outputs or name.endswith(COMPUTED):
            continue
        shape, _ = theirs.described(name)
        if shape == wanted and torch.equal(theirs.read(name).float(), theirs.read(embedding).float()):
            continue
        what = "other numbers than" if shape == wanted else f"the shape {list(shape)}, not {list(wanted)} as"
        raise CheckpointError(
            f"{theirs.path}: config.json says tie_word_embeddings, but {name} holds {what} {embedding}. "
            "Take that tensor away, or set tie_word_embeddings to false, whichever is the model."
        )
