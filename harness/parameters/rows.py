"""Kinds of rows of the table of parameters: norms, projections, tables of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.parameters.model_shape import ModelShape
from harness.parameters.names import in_layer
from harness.parameters.parameter import Cut, End, Initial, Parameter, Part


def always(model: ModelShape) -> bool:
    """Return that every model has it."""
    return True


def never(model: ModelShape) -> bool:
    """Return that no model has it."""
    return False


@dataclass(frozen=True, kw_only=True)
class Row:
    """A parameter of every model for which `when` holds."""

    name: str
    part: Part
    shape: Callable[[ModelShape], tuple[int, ...]]
    when: Callable[[ModelShape], bool] = always
    initial: Callable[[ModelShape], Initial] = lambda model: Initial()
    cut: Callable[[ModelShape], Cut | None] = lambda model: None
    decays: bool = False
    ends: Callable[[ModelShape], tuple[End, ...]] = lambda model: ()
    is_multiplied: Callable[[ModelShape], bool] = never
    writes_to_residual: bool = False
    is_of_experts: bool = False
    is_trained: bool = True
    has_vocabulary: bool = False
    stacked: Callable[[ModelShape], tuple[int, ...]] = lambda model: ()

    def parameter(self, model: ModelShape, layer: int | None) -> Parameter:
        """Return the parameter of a model that has it, in this layer or outside of all."""
        shape = self.shape(model)
        true_shape = (model.vocab_size, *shape[1:]) if self.has_vocabulary else shape
        if self.is_of_experts:
            true_shape = (model.moe_router_topk, *shape[1:])
        return Parameter(
            name=self.name if layer is None else in_layer(layer, self.name),
            part=self.part,
            shape=shape,
            initial=self.initial(model),
            cut=self.cut(model),
            decays=self.decays,
            layer=layer,
            ends=self.ends(model),
            num_multiplied=math.prod(true_shape) if self.is_multiplied(model) else 0,
            writes_to_residual=self.writes_to_residual,
            num_experts=shape[0] if self.is_of_experts else None,
            num_chosen=model.moe_router_topk if self.is_of_experts else None,
            is_trained=self.is_trained,
            num_true_rows=model.vocab_size if self.has_vocabulary else None,
            stacked=self.stacked(model),
        )


def norm(
    name: str,
    size: Callable[[ModelShape], int],
    *,
    part: Part = "norm",
    when: Callable[[ModelShape], bool] = always,
    end: End | None = None,
    cut: Callable[[ModelShape], Cut | None] = lambda model: None,
) -> tuple[Row, ...]:
    """Rows of a norm: ones, or zeros to which one is added; and with LayerNorm zeros that are added behind it."""

    def row(kind: str, mean: float, exists: Callable[[ModelShape], bool]) -> Row:
        return Row(
            name=f"{name}.{kind}",
            part=part,
            shape=lambda model: (size(model),),
            when=exists,
            initial=lambda model: Initial(mean=0.0 if model.layernorm_zero_centered_gamma else mean),
            cut=cut,
            ends=lambda model: (end,) if end else (),
        )

    def has_bias(model: ModelShape) -> bool:
        return when(model) and model.normalization == "LayerNorm"

    return row("weight", 1.0, when), row("bias", 0.0, has_bias)


def into_layer(  # noqa: PLR0913 (what rows of projections differ in)
    name: str,
    part: Part,
    outputs: Callable[[ModelShape], int],
    *,
    has_bias: Callable[[ModelShape], bool],
    when: Callable[[ModelShape], bool] = always,
    num_blocks: Callable[[ModelShape], int] = lambda model: 1,
    inputs: Callable[[ModelShape], int] = lambda model: model.hidden_size,
    is_shared: bool = True,
) -> tuple[Row, ...]:
    """Rows of a projection `[outputs, inputs]` from the residual stream: tensor-parallel ranks share its outputs."""

    def cut(model: ModelShape) -> Cut | None:
        return Cut(dim=0, num_blocks=num_blocks(model)) if is_shared else None

    weight = Row(
        name=f"{name}.weight",
        part=part,
        shape=lambda model: (outputs(model), inputs(model)),
        when=when,
        initial=lambda model: Initial(deviation=model.init_method_std),
        cut=cut,
        decays=True,
        is_multiplied=always,
    )
    bias = Row(
        name=f"{name}.bias",
        part=part,
        shape=lambda model: (outputs(model),),
        when=has_bias,
        cut=cut,
    )
    return weight, bias


def into_residual(
    name: str, part: Part, inputs: Callable[[ModelShape], int], *, when: Callable[[ModelShape], bool] = always
) -> tuple[Row, ...]:
    """Rows of a projection into the residual stream `[hidden, inputs]`: tensor-parallel ranks share its inputs."""
    weight = Row(
        name=f"{name}.weight",
        part=part,
        shape=lambda model: (model.hidden_size, inputs(model)),
        when=when,
        initial=lambda model: Initial(deviation=deviation_into_residual(model)),
        cut=lambda model: Cut(dim=1),
        decays=True,
        is_multiplied=always,
        writes_to_residual=True,
    )
    bias = Row(
        name=f"{name}.bias",
        part=part,
        shape=lambda model: (model.hidden_size,),
        when=lambda model: when(model) and model.add_bias_linear,
        writes_to_residual=True,
    )
    return weight, bias


def deviation_into_residual(model: ModelShape) -> float:
    """Return GPT-2's scaling: two projections of every layer add to the residual stream."""
    return model.init_method_std / math.sqrt(2 * model.num_layers)


def of_vocabulary(
    name: str,
    part: Part,
    ends: Callable[[ModelShape], tuple[End, ...]],
    *,
    is_multiplied: Callable[[ModelShape], bool],
    when: Callable[[ModelShape], bool] = always,
) -> Row:
    """Row of a table `[padded vocabulary, hidden]`: tensor-parallel ranks share its rows."""
    return Row(
        name=name,
        part=part,
        shape=lambda model: (model.padded_vocab_size, model.hidden_size),
        when=when,
        initial=lambda model: Initial(deviation=model.init_method_std),
        cut=lambda model: Cut(dim=0),
        decays=True,
        ends=ends,
        is_multiplied=is_multiplied,
        has_vocabulary=True,
    )
