"""Compares two models tensor by tensor, each a checkpoint of ours or a Hugging Face model's folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from checkpoint_tools.conversion_plan import require_complete
from checkpoint_tools.families.rotation import rotary_fields
from checkpoint_tools.foreign_files import is_there
from checkpoint_tools.number_formats import contains, format_name
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
    is_export: bool
    """True for a Hugging Face model's folder."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One difference between two models: a field of the configuration, or a tensor."""

    name: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The result of comparing two models."""

    differences: tuple[Difference, ...]
    """Fields first, then tensors."""
    converted: Mapping[str, int] = field(default_factory=dict)
    """Number of tensors that are equal in every bit once both are in one format, by what that takes."""

    def converted_text(self) -> str:
        """Return those numbers as a part of a line; empty if all tensors had one format."""
        return "".join(f", {number} tensors equal after {what}" for what, number in self.converted.items())


def open_either(path: Path) -> OpenModel:
    """Open a checkpoint (a folder with a manifest) or a Hugging Face model's folder (with a config.json).

    Raises:
        CheckpointError: It is neither, or damaged, or does not hold the model of its config.json.
        UsageError: It is a file.
    """
    if (path / MANIFEST_NAME).is_file():
        ours = open_checkpoint(path, hashes=False)
        return OpenModel(path, ours.model, ours.names, lambda name: _cut(name, ours.read(name), ours.model), False)
    if not path.is_file() and not is_there(path / "config.json"):
        raise CheckpointError(f"{path} is not a model folder: it has neither {MANIFEST_NAME} nor config.json.")
    theirs = open_model(path)
    moves = checked_moves(theirs)
    model = theirs.model
    return OpenModel(
        path, model, tuple(moves), lambda name: _cut(name, moves[name].joined(theirs.read, model), model), True
    )


def compare(a: OpenModel, b: OpenModel, *, tolerance: float = 0.0, may_round: bool = False) -> Comparison:
    """Compare the fields and all tensors of two models.

    Numbers that differ by no more than `tolerance` count as equal; 0 wants equal numbers in one format. With
    `may_round` a tensor in another format is equal too if it has every bit of the other one in the export's format: an
    export in bf16 is that of fp32 weights, rounded once.

    Raises:
        CheckpointError: One of them has tensors that the other has not.
    """
    found = [
        Difference(name=f"model.{name}", what=f"{value} and {_fields(b.model)[name]}")
        for name, value in _fields(a.model).items()
        if value != _fields(b.model)[name]
    ]
    require_complete(b.names, a.names, str(b.path))
    converted: Counter[str] = Counter()
    for name in a.names:
        one, other = a.read(name), b.read(name)
        common = _common_format(a, b, one.dtype, other.dtype) if may_round and one.shape == other.shape else None
        if common is not None and _num_unequal(one, other, common) == 0:
            converted[_conversion(one.dtype, other.dtype, common)] += 1
        elif (what := _difference(one, other, tolerance, common)) is not None:
            found.append(Difference(name=name, what=what))
    return Comparison(differences=tuple(found), converted=converted)


def differences(a: OpenModel, b: OpenModel) -> list[Difference]:
    """Return the differences between two models, fields first. Tensors in different formats differ.

    Raises:
        CheckpointError: One of them has tensors that the other has not.
    """
    return list(compare(a, b).differences)


def _common_format(a: OpenModel, b: OpenModel, one: torch.dtype, other: torch.dtype) -> torch.dtype | None:
    """Return the format in which two tensors can be equal: that of the export, else the one with fewer numbers.

    None if they have one format, or neither has all numbers of the other.
    """
    if one == other:
        return None
    if a.is_export != b.is_export:
        return one if a.is_export else other
    if contains(one, other):
        return other
    return one if contains(other, one) else None


def _conversion(one: torch.dtype, other: torch.dtype, common: torch.dtype) -> str:
    source = other if one == common else one
    return f"{'widening' if contains(common, source) else 'rounding'} to {format_name(common)}"


def _num_unequal(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> int:
    """Return how many numbers of two tensors have other bits in a format."""
    words = torch.int16 if dtype.itemsize == torch.int16.itemsize else torch.int32
    bits = [tensor.to(dtype).contiguous().view(words) for tensor in (one, other)]
    return int((bits[0] != bits[1]).sum())


def _difference(
    one: torch.Tensor, other: torch.Tensor, tolerance: float, common: torch.dtype | None = None
) -> str | None:
    if one.shape != other.shape:
        return f"shapes {list(one.shape)} and {list(other.shape)}"
    if one.dtype == other.dtype and torch.equal(one, other):
        return None
    largest = float((one.float() - other.float()).abs().max())
    if one.dtype == other.dtype or tolerance > 0:
        return f"largest difference {largest:.3g}" if not largest <= tolerance else None
    formats = f"formats {format_name(one.dtype)} and {format_name(other.dtype)}"
    if common is None:
        return f"{formats}, largest difference {largest:.3g}"
    left = float((one.to(common).float() - other.to(common).float()).abs().max())
    num_unequal, conversion = _num_unequal(one, other, common), _conversion(one.dtype, other.dtype, common)
    return f"{formats}, after {conversion} {num_unequal:,} of {one.numel():,} numbers differ, by up to {left:.3g}"


def _fields(model: ModelConfig) -> Mapping[str, object]:
    fields = {name: value for name, value in model.model_dump().items() if name not in _NOT_COMPUTED}
    return {**fields, "query_groups": model.query_groups, "head_size": model.head_size, **rotary_fields(model)}


def _cut(name: str, tensor: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    return tensor[: model.vocab_size] if name in (EMBEDDING, OUTPUT) else tensor
