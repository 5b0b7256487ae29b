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
    rounded: Mapping[torch.dtype, int] = field(default_factory=dict)
    """Tensors that are equal in every bit once the one in the wider format is rounded to the other's, by the latter."""

    def rounded_text(self) -> str:
        """Return the numbers of those tensors as a part of a line; empty if there are none."""
        return "".join(
            f", {number} tensors equal after rounding to {format_name(dtype)}" for dtype, number in self.rounded.items()
        )


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


def compare(a: OpenModel, b: OpenModel, *, tolerance: float = 0.0, may_round: bool = False) -> Comparison:
    """Compare the fields and all tensors of two models.

    Numbers that differ by no more than `tolerance` count as equal; 0 wants equal numbers in one format. With
    `may_round` a tensor in another format is equal too if rounding gives every bit of it: an export in bf16 is that of
    fp32 weights.

    Raises:
        CheckpointError: One of them has tensors that the other has not.
    """
    found = [
        Difference(name=f"model.{name}", what=f"{value} and {_fields(b.model)[name]}")
        for name, value in _fields(a.model).items()
        if value != _fields(b.model)[name]
    ]
    require_complete(b.names, a.names, str(b.path))
    rounded: Counter[torch.dtype] = Counter()
    for name in a.names:
        one, other = a.read(name), b.read(name)
        narrower = _narrower(one, other) if may_round else None
        if narrower is not None and _num_unequal(one, other, narrower) == 0:
            rounded[narrower] += 1
        elif (what := _difference(one, other, tolerance, narrower)) is not None:
            found.append(Difference(name=name, what=what))
    return Comparison(differences=tuple(found), rounded=rounded)


def differences(a: OpenModel, b: OpenModel) -> list[Difference]:
    """Return the differences between two models, fields first. Tensors in different formats differ.

    Raises:
        CheckpointError: One of them has tensors that the other has not.
    """
    return list(compare(a, b).differences)


def _narrower(one: torch.Tensor, other: torch.Tensor) -> torch.dtype | None:
    """Return the format to which one of two tensors can be rounded: it holds no number that the other's lacks."""
    if one.shape != other.shape or one.dtype == other.dtype:
        return None
    if contains(one.dtype, other.dtype):
        return other.dtype
    return one.dtype if contains(other.dtype, one.dtype) else None


def _num_unequal(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> int:
    """Return how many numbers of two tensors have other bits after rounding to a format of 16 bits."""
    bits = [tensor.to(dtype).contiguous().view(torch.int16) for tensor in (one, other)]
    return int((bits[0] != bits[1]).sum())


def _difference(
    one: torch.Tensor, other: torch.Tensor, tolerance: float, narrower: torch.dtype | None = None
) -> str | None:
    if one.shape != other.shape:
        return f"shapes {list(one.shape)} and {list(other.shape)}"
    if one.dtype == other.dtype and torch.equal(one, other):
        return None
    largest = float((one.float() - other.float()).abs().max())
    if one.dtype == other.dtype or tolerance > 0:
        return f"largest difference {largest:.3g}" if not largest <= tolerance else None
    formats = f"formats {format_name(one.dtype)} and {format_name(other.dtype)}"
    if narrower is None:
        return f"{formats}, largest difference {largest:.3g}"
    return (
        f"{formats}, {_num_unequal(one, other, narrower):,} of {one.numel():,} numbers differ after rounding to "
        f"{format_name(narrower)}, largest difference {_largest_after(one, other, narrower):.3g}"
    )


def _largest_after(one: torch.Tensor, other: torch.Tensor, dtype: torch.dtype) -> float:
    return float((one.to(dtype).float() - other.to(dtype).float()).abs().max())


def _fields(model: ModelConfig) -> Mapping[str, object]:
    fields = {name: value for name, value in model.model_dump().items() if name not in _NOT_COMPUTED}
    return {**fields, "query_groups": model.query_groups, "head_size": model.head_size, **rotary_fields(model)}


def _cut(name: str, tensor: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    return tensor[: model.vocab_size] if name in (EMBEDDING, OUTPUT) else tensor
