"""Counts the parameters of a model: in all, by layer and on each rank."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from harness.config.model import ModelConfig
from harness.parameters.parameter import End, Parameter
from harness.parameters.table import parameter_table
from harness.plan.layouts import Layout
from harness.plan.stages import Stages, layers_of_rank


@dataclass(frozen=True, kw_only=True)
class ParameterCount:
    """Parameters of a model, with the true vocabulary unless a name says padded."""

    embedding: int
    attention_per_layer: int
    mlp_per_layer: int
    """MLP of a dense layer; 0 where every layer has experts."""
    experts_per_layer: int
    """Router, experts and shared experts of a layer with experts; 0 where none has."""
    norms_per_layer: int
    num_layers: int
    num_expert_layers: int
    output: int
    """Output layer; 0 where it shares the embedding."""
    mtp: int
    """Modules that predict further tokens; 0 where there are none."""
    total: int
    """Parameters of the model as one publishes it, with the modules that predict further tokens."""
    active: int
    """Parameters that one token meets: of the experts of a layer those that are chosen."""
    padding: int
    """Parameters of the padded rows of embedding and output layer, which never learn."""

    @property
    def per_layer(self) -> int:
        """Parameters of one transformer layer: a dense one, or one with experts where there is no other."""
        of_mlp = self.experts_per_layer if self.num_expert_layers == self.num_layers else self.mlp_per_layer
        return self.attention_per_layer + of_mlp + self.norms_per_layer

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
    experts: int = 0
    """Share of what expert-parallel ranks and those that share each expert divide; over all of them the whole."""
    split_in_matrices: int = 0
    """Numbers of `split` that are in hidden matrices (`Parameter.is_matrix`)."""
    replicated_in_matrices: int = 0
    """The same of `replicated`; of `experts` all are."""

    @property
    def total(self) -> int:
        """All of them."""
        return self.split + self.replicated + self.experts

    @property
    def dense_in_matrices(self) -> int:
        """Those in hidden matrices that are not of experts."""
        return self.split_in_matrices + self.replicated_in_matrices

    @property
    def outside_matrices(self) -> int:
        """Those in no hidden matrix."""
        return self.split + self.replicated - self.dense_in_matrices


def count_parameters(model: ModelConfig) -> ParameterCount:
    """Count the parameters of a model by its parts."""
    table = [parameter for parameter in parameter_table(model) if parameter.is_trained]

    def number(part: str, layer: int | None) -> int:
        return sum(parameter.num_true for parameter in table if (parameter.part, parameter.layer) == (part, layer))

    def number_in_first(part: str, *, with_experts: bool) -> int:
        return number(part, model.expert_layers.index(with_experts)) if with_experts in model.expert_layers else 0

    return ParameterCount(
        embedding=number("embedding", None),
        attention_per_layer=number("attention", 0),
        mlp_per_layer=number_in_first("mlp", with_experts=False),
        experts_per_layer=number_in_first("experts", with_experts=True),
        norms_per_layer=number("norm", 0),
        num_layers=model.num_layers,
        num_expert_layers=sum(model.expert_layers),
        output=number("output", None),
        mtp=sum(parameter.num_true for parameter in table if parameter.is_of_mtp),
        total=sum(parameter.num_true for parameter in table),
        active=sum(parameter.num_active for parameter in table),
        padding=sum(parameter.size - parameter.num_true for parameter in table),
    )


def stage_parameters(model: ModelConfig, layout: Layout, stages: Stages) -> tuple[RankParameters, ...]:
    """Return the parameters on a rank of every pipeline stage, all of its model chunks together, by pipeline rank.

    A tied output layer on another stage than the embedding is a second copy of it.
    """
    places = _places(model)
    held: list[list[RankParameters]] = [[] for _ in range(layout.pipeline)]
    held[0] += places.first
    held[-1] += places.last if layout.pipeline > 1 else places.last_alone
    for rank, stage in enumerate(held):
        for layers in layers_of_rank(stages, rank):
            stage += places.layers[layers.start : layers.stop]
    return tuple(
        RankParameters(
            split=sum(sizes.split // layout.tensor for sizes in stage),
            replicated=sum(sizes.replicated for sizes in stage),
            experts=sum(sizes.experts // (layout.expert * layout.expert_tensor) for sizes in stage),
            split_in_matrices=sum(sizes.split_in_matrices // layout.tensor for sizes in stage),
            replicated_in_matrices=sum(sizes.replicated_in_matrices for sizes in stage),
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
    trained = [parameter for parameter in parameters if parameter.is_trained]

    def numbers(*, is_cut: bool, is_matrix: bool | None = None) -> int:
        return sum(
            parameter.size
            for parameter in trained
            if parameter.num_experts is None
            and (parameter.cut is not None) == is_cut
            and is_matrix in (None, parameter.is_matrix)
        )

    return RankParameters(
        split=numbers(is_cut=True),
        replicated=numbers(is_cut=False),
        experts=sum(parameter.size for parameter in trained if parameter.num_experts is not None),
        split_in_matrices=numbers(is_cut=True, is_matrix=True),
        replicated_in_matrices=numbers(is_cut=False, is_matrix=True),
    )
