"""Counts the parameters of a model: in all, by layer and on each rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from harness.config.model import ModelConfig
from harness.parameters.parameter import End, Parameter
from harness.parameters.table import parameter_table
from harness.plan.layouts import Layout


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model, with the true vocabulary unless a name says padded."""

    embedding: int
    attention_per_layer: int
    mlp_per_layer: int
    norms_per_layer: int
    num_layers: int
    output: int
    """Output layer; 0 where it shares the embedding."""
    total: int
    """Parameters of the model as one publishes it."""
    padding: int
    """Parameters of the padded rows of embedding and output layer, which never learn."""

    @property
    def per_layer(self) -> int:
        """Parameters of one transformer layer."""
        return self.attention_per_layer + self.mlp_per_layer + self.norms_per_layer

    @property
    def padded_total(self) -> int:
        """Parameters that are held in memory over all ranks of one copy."""
        return self.total + self.padding


@dataclass(frozen=True, kw_only=True)
class RankParameters:
    """Numbers of some parameters, padded rows included: those that one rank holds, or of a layer over its ranks."""

    split: int
    """Share of what tensor parallelism splits; over all ranks the whole."""
    replicated: int
    """Parameters that every tensor-parallel rank holds: norms, and biases of row-parallel layers."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.split + self.replicated


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of a model by its parts."""
    table = parameter_table(model)

    def number(part: str, layer: int | None) -> int:
        return sum(parameter.num_true for parameter in table if (parameter.part, parameter.layer) == (part, layer))

    return ParameterCount(
        embedding=number("embedding", None),
        attention_per_layer=number("attention", 0),
        mlp_per_layer=number("mlp", 0),
        norms_per_layer=number("norm", 0),
        num_layers=model.num_layers,
        output=number("output", None),
        total=sum(parameter.num_true for parameter in table),
        padding=sum(parameter.size - parameter.num_true for parameter in table),
    )


def stage_parameters(
    model: ModelConfig, layout: Layout, layers_per_stage: tuple[tuple[int, ...], ...]
) -> tuple[RankParameters, ...]:
    """Return the parameters on a rank of every pipeline stage, all of its model chunks together, by pipeline rank.

    A tied output layer on another stage than the embedding is a second copy of it.
    """
    places = _places(model)
    held: list[list[RankParameters]] = [[] for _ in range(layout.pipeline)]
    held[0] += places.first
    held[-1] += places.last if layout.pipeline > 1 else places.last_alone
    first_layer = 0
    for chunk in layers_per_stage:
        for stage, num_layers in zip(held, chunk, strict=True):
            stage += places.layers[first_layer : first_layer + num_layers]
            first_layer += num_layers
    return tuple(
        RankParameters(
            split=sum(sizes.split // layout.tensor for sizes in stage),
            replicated=sum(sizes.replicated for sizes in stage),
        )
        for stage in held
    )


@dataclass(frozen=True, kw_only=True)
class _Places:
    """The parameters of each layer, and those at the ends of the pipeline."""

    layers: tuple[RankParameters, ...]
    first: tuple[RankParameters, ...]
    last: tuple[RankParameters, ...]
    last_alone: tuple[RankParameters, ...]
    """The parameters at the last end only."""


@lru_cache(maxsize=16)
def _places(model: ModelConfig) -> _Places:
    """Add up the table once for all layouts that are tried."""
    layers: list[list[Parameter]] = [[] for _ in range(model.num_layers)]
    at_ends: list[Parameter] = []
    for parameter in parameter_table(model):
        (at_ends if parameter.layer is None else layers[parameter.layer]).append(parameter)

    def at(end: End) -> list[Parameter]:
        return [parameter for parameter in at_ends if end in parameter.ends]

    return _Places(
        layers=tuple(_sizes(of_layer) for of_layer in layers),
        first=tuple(_sizes([parameter]) for parameter in at("first")),
        last=tuple(_sizes([parameter]) for parameter in at("last")),
        last_alone=tuple(_sizes([parameter]) for parameter in at("last") if "first" not in parameter.ends),
    )


def _sizes(parameters: Iterable[Parameter]) -> RankParameters:
    sizes = [(parameter.size, parameter.cut is None) for parameter in parameters]
    return RankParameters(
        split=sum(size for size, is_whole in sizes if not is_whole),
        replicated=sum(size for size, is_whole in sizes if is_whole),
    )
