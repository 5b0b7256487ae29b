"""Compares two models tensor by tensor, each a checkpoint of ours or a Hugging Face model's folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from checkpoint_tools.conversion_plan import require_complete
from checkpoint_tools.families.rotation import rotary_fields
from checkpoint_tools.foreign_files import is_there
from checkpoint_tools.our_tensors import open_checkpoint
from checkpoint_tools.their_model import checked_moves
from checkpoint_tools.their_tensors import open_model
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.parameters.names import EMBEDDING, OUTPUT
from harness.run.checkpoints.manifest import MANIFEST_NAME

_NOT_COMPUTED = {
    "init_method_std",
    "z_loss_coefficient",
    "mtp_loss_scaling_factor",
    "vocab_size_multiple_of",
    "num_query_groups",
    "kv_channels",
    "rotary_base",
    "rope_scaling",
}
"""Fields of a model that matter in training only, or that are compared as what follows from them."""


@dataclass(frozen=True)
class OpenModel:
    """A model whose tensors are read by our names, the vocabulary without padding."""

    path: Path
    model: ModelConfig
    names: tuple[str, ...]
    read: Callable[[str], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference between two models: a field of the configuration, or a tensor."""

    name: str
    what: str


def open_either(path: Path) -> OpenModel:
    """Open a checkpoint (a folder with a manifest) or a Hugging Face model's folder (with a config.json).

    Raises:
        CheckpointError: It is neither, or damaged, or does not hold the model of its config.json.
        UsageError: It is a file.
    """
    if (path / MANIFEST_NAME).is_file():
        ours = open_checkpoint(path, hashes=False)
        return OpenModel(path, ours.model, ours.names, lambda name: _cut(name, ours.read(name), ours.model))
    if not path.is_file() and not is_there(path / "config.json"):
        raise CheckpointError(f"{path} is not a model folder: it has neither {MANIFEST_NAME} nor config.json.")
    theirs = open_model(path)
    moves = checked_moves(theirs)
    model = theirs.model
    return OpenModel(path, model, tuple(moves), lambda name: _cut(name, moves[name].joined(theirs.read, model), model))


def differences(a: OpenModel, b: OpenModel, *, tolerance: float = 0.0) -> list[Difference]:
    """Return the differences between two models, fields first.

    Numbers that differ by no more than `tolerance` count as equal; 0 wants equal bits.

    Raises:
        CheckpointError: One of them has tensors that the other has not.
    """
    found = [
        Difference(name=f"model.{name}", what=f"{value} and {_fields(b.model)[name]}")
        for name, value in _fields(a.model).items()
        if value != _fields(b.model)[name]
    ]
    require_complete(b.names, a.names, str(b.path))
    for name in a.names:
        if (what := _difference(a.read(name), b.read(name), tolerance)) is not None:
            found.append(Difference(name=name, what=what))
    return found


def _difference(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> str | None:
    if one.shape != other.shape:
        return f"shapes {list(one.shape)} and {list(other.shape)}"
    if one.dtype == other.dtype and torch.equal(one, other):
        return None
    largest = float((one.float() - other.float()).abs().max())
    if one.dtype == other.dtype or tolerance > 0:
        return f"largest difference {largest:.3g}" if not largest <= tolerance else None
    return f"formats {one.dtype} and {other.dtype}, largest difference {largest:.3g}"


def _fields(model: ModelConfig) -> Mapping[str, object]:
    fields = {name: value for name, value in model.model_dump().items() if name not in _NOT_COMPUTED}
    return {**fields, "query_groups": model.query_groups, "head_size": model.head_size, **rotary_fields(model)}


def _cut(name: str, tensor: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    return tensor[: model.vocab_size] if name in (EMBEDDING, OUTPUT) else tensor
