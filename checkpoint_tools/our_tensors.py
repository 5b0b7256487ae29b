"""The weights of one of our checkpoints by the name that each has in a single-rank model, layer by layer.

A checkpoint stacks equal parameters of all layers (`decoder.layers.mlp.linear_fc2.weight`, `[L, …]`) or numbers them
(`decoder.layers.3.mlp.linear_fc2.weight`), which depends on Megatron's version; here they are always numbered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from checkpoint_tools.torch_dist import DTYPES, read_chunk, read_index, read_region
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.parameters.names import LAYERS, MTP_MODULES, in_layer, split_layer
from harness.run.checkpoints.manifest import Manifest
from harness.run.checkpoints.stored_index import StoredTensor
from harness.run.checkpoints.tiling import Shape
from harness.run.checkpoints.verify import verify_before_load

_NOT_WEIGHTS = ("optimizer.", "rng_state", "rerun_state")


@dataclass(frozen=True, kw_only=True)
class _Place:
    stored: StoredTensor
    layer: int | None


@dataclass(frozen=True, kw_only=True)
class OurTensors:
    """A verified checkpoint, opened for reading one tensor at a time; safe to use from several threads."""

    path: Path
    manifest: Manifest
    model: ModelConfig
    places: Mapping[str, _Place]
    left_out: tuple[str, ...] = ()
    """Tensors that are not weights: the optimizer's state; and weights that are not wanted."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all weights."""
        return tuple(self.places)

    def without_mtp_modules(self) -> OurTensors:
        """Return the same without the modules that predict further tokens."""
        names = [name for name in self.places if name.startswith(MTP_MODULES)]
        return replace(
            self,
            model=self.model.model_copy(update={"mtp_num_layers": None}),
            places={name: place for name, place in self.places.items() if name not in names},
            left_out=(*self.left_out, *names),
        )

    def shape(self, name: str) -> Shape:
        """Return the shape of a weight."""
        place = self.places[name]
        return place.stored.shape if place.layer is None else place.stored.shape[1:]

    def dtype(self, name: str) -> torch.dtype:
        """Number format of a weight."""
        return DTYPES[self.places[name].stored.dtype]

    def read(self, name: str) -> torch.Tensor:
        """Read a whole weight."""
        place = self.places[name]
        shape = place.stored.shape
        if place.layer is None:
            return read_region(self.path, place.stored, (0,) * len(shape), shape)
        offsets = (place.layer, *(0 for _ in shape[1:]))
        return read_region(self.path, place.stored, offsets, (1, *shape[1:]))[0]

    def blocks(self, name: str) -> Iterator[tuple[tuple[slice, ...], torch.Tensor]]:
        """Yield the blocks that make up a weight, as they are stored, each with its place in the weight."""
        place = self.places[name]
        for chunk in place.stored.chunks:
            region = tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))
            if place.layer is None:
                yield region, read_chunk(self.path, place.stored, chunk)
            elif region[0].start <= place.layer < region[0].stop:
                yield region[1:], read_chunk(self.path, place.stored, chunk)[place.layer - region[0].start]


def open_checkpoint(path: Path, *, hashes: bool = True) -> OurTensors:
    """Open a checkpoint after it was verified: sizes and small files always, with `hashes` the content of all files.

    Raises:
        CheckpointError: It does not verify, or holds no model that this version knows.
    """
    manifest = verify_before_load(path, deep=hashes)
    model = model_of(manifest, path)
    index = read_index(path)
    left_out = tuple(name for name in index if name.startswith(_NOT_WEIGHTS))
    places = places_of(index, model, path)
    return OurTensors(path=path, manifest=manifest, model=model, places=places, left_out=left_out)


def model_of(manifest: Manifest, path: Path) -> ModelConfig:
    """Return the model of a checkpoint, from its manifest, with the rotary settings of the phase that was trained last.

    Raises:
        CheckpointError: The manifest describes none that this version knows.
    """
    fields = manifest.fingerprint.get("model")
    if isinstance(fields, dict):
        fields = {**fields, **(manifest.rotation or {})}
    try:
        return ModelConfig.model_validate(fields)
    except ValueError as error:
        problem = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"Checkpoint {path} does not say what model it holds, or one of another version of harness: {problem}"
        ) from error


def places_of(index: Mapping[str, StoredTensor], model: ModelConfig, path: Path) -> dict[str, _Place]:
    """Return the place of each weight of a model, by its numbered name.

    Raises:
        CheckpointError: The index is of another model.
    """
    places: dict[str, _Place] = {}
    for name, stored in index.items():
        if name.startswith(_NOT_WEIGHTS):
            continue
        if stored.dtype not in DTYPES:
            raise CheckpointError(f"Checkpoint {path}: {name} is {stored.dtype}, weights must be {', '.join(DTYPES)}.")
        if not name.startswith(LAYERS) or split_layer(name)[0] is not None:
            places[name] = _Place(stored=stored, layer=None)
            continue
        if not stored.shape or stored.shape[0] != model.num_layers:
            raise CheckpointError(
                f"Checkpoint {path}: {name} has the shape {list(stored.shape)}, its manifest says {model.num_layers} "
                "layers."
            )
        rest = name.removeprefix(LAYERS)
        for layer in range(model.num_layers):
            places[in_layer(layer, rest)] = _Place(stored=stored, layer=layer)
    return places
