"""Families of Hugging Face models: a table of tensors, and the allowed contents of `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from checkpoint_tools.layout import UNCHANGED, Fusion
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.parameters.names import LAYERS, OUTPUT, fused_name, split_layer
from harness.parameters.table import parameter_table

Fields = dict[str, Any]
"""A `config.json`."""


@dataclass(frozen=True)
class Piece:
    """A part of a tensor."""

    tensor: torch.Tensor
    number: int
    """Index along the first dimension of the whole."""
    rows: slice
    """Indices along the second one."""


Judged = Mapping[str, torch.Tensor | Piece]
"""Tensors of the family that judges, by their names there, or pieces of them."""
Judge = Callable[[str, torch.Tensor, ModelConfig], Judged]

_IN_EVERY_FAMILY = (
    # Read and written by `checkpoint_tools.families.config_json`:
    *("untie_embeddings_and_output_weights", "rotary_base", "rope_scaling"),
    # They do not change what the model computes:
    *("vocab_size_multiple_of", "z_loss_coefficient", "moe_router_load_balancing_type", "moe_aux_loss_coeff"),
    *("moe_z_loss_coeff", "moe_router_bias_update_rate", "moe_token_dispatcher_type"),
)
"""Fields of our model that a family need not name."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A rule for one layer: what is read, what is written."""

    ours: str
    """Name in a checkpoint."""
    theirs: tuple[str, ...]
    fusion: Fusion
    built: str | None = None
    """Name that all of them together have in a model that transformers has built; None: their own."""

    def joined(self, read: Callable[[str], torch.Tensor], model: ModelConfig) -> torch.Tensor:
        """Return our tensor, made of theirs."""
        return self.fusion.join([read(name) for name in self.theirs], model)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One tensor of ours, and those of theirs with the same numbers. `{}` stands for the layer, `{e}` for each expert.

    A rule applies to the layers, and the models, that have the parameter.
    """

    ours: str
    """Name in the table of parameters."""
    theirs: tuple[str, ...]
    fusion: Fusion = UNCHANGED
    built: str | None = None
    """Name that all of theirs have together, as one tensor, in a model that transformers has built; None: their own."""

    def of_layer(self, layer: int, num_experts: int, *, is_latent: bool = False) -> Move:
        """Return the rule for one layer, of a model with latent attention or without."""
        is_of_experts = any("{e}" in name for name in self.theirs)
        numbers = range(num_experts) if is_of_experts else range(1)
        names = (name.replace("{e}", str(number)) for number in numbers for name in self.theirs)
        theirs = tuple(name.replace("{}", str(layer)) for name in names)
        return Move(
            ours=fused_name(self.ours.replace("{}", str(layer)), is_latent=is_latent),
            theirs=theirs,
            fusion=self.fusion,
            built=None if self.built is None else self.built.replace("{}", str(layer)),
        )


@dataclass(frozen=True, kw_only=True)
class Derived:
    """Keys of `config.json` and fields of our model that say the same in other words."""

    keys: tuple[str, ...]
    fields: tuple[str, ...]
    read: Callable[[Fields], dict[str, Any]]
    """Makes the fields out of plain values; raises CheckpointError, whose text begins with a key, if it cannot."""
    write: Callable[[ModelConfig], Fields]
    objections: Callable[[ModelConfig], list[str]] = lambda model: []
    """Features of a model that the keys cannot say."""


@dataclass(frozen=True, kw_only=True)
class Places:
    """Modules of transformers whose outputs a proof compares."""

    embedding: str = "model.embed_tokens"
    layers: str = "model.layers"
    """In front of the number of a layer."""
    final_norm: str = "model.norm"


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family. Everything about it is in this table; the registry alone knows its name."""

    model_type: str
    """`model_type` in `config.json`."""
    architecture: str
    """Class in transformers."""
    rules: tuple[Rule, ...]
    fields: Mapping[str, str]
    """Key of `config.json` to field of our model."""
    derived: tuple[Derived, ...] = ()
    has: Mapping[str, object]
    """Fields of our model that are the same in every model of the family."""
    required: Callable[[ModelConfig], Mapping[str, object]] = field(default=lambda model: {})
    """Fields of our model that the family cannot have otherwise, where that depends on other fields."""
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys that change the function, and the only values that are known here; the first one is written."""
    ignored: tuple[str, ...] = ()
    """Further keys that do not change the function."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Defaults of the family's class for keys that `config.json` lacks."""
    nullable: tuple[str, ...] = ()
    """Keys whose null says something, and is no missing key."""
    has_bias_keys: bool = False
    """The keys `attention_bias` and `mlp_bias` tell if there are biases."""
    rotary_share: float | None = None
    """Share of a head that is rotated where `config.json` does not say it; None: all of it, always."""
    places: Places = field(default_factory=Places)
    base_prefix: str | None = None
    """Prefix that published files leave out of all names; None: none does."""
    buffers: tuple[str, ...] = ()
    """Ends of the names of tensors that are no weights."""
    rotates_apart_in_windows: bool = False
    """True if layers with a window have a base of their own, and no scaling, in the rotary settings."""
    further_layers: str | None = None
    """Key with the number of layers behind the last whose tensors are not read: they predict further tokens."""
    note: str | None = None
    """A warning for whoever writes a model as this family."""
    is_default: bool = False
    """True if a model that it can express is written as this family where none is named."""
    judge: Judge | None = None
    """Their tensor as those of a family that transformers knows, where it does not know this one."""
    judged_as: Callable[[ModelConfig], tuple[str, Fields]] = lambda model: ("llama", {})
    """Name of that family, and keys of its `config.json` that are other than ours would be."""

    @property
    def layers_key(self) -> str:
        """Key of the number of layers."""
        return next(key for key, name in self.fields.items() if name == "num_layers")

    @property
    def outputs(self) -> tuple[str, ...]:
        """Their names of the output layer, which say nothing beside a tied embedding."""
        return tuple(name for rule in self.rules if rule.ours == OUTPUT for name in rule.theirs)

    def objections(self, model: ModelConfig) -> list[str]:
        """Return every feature of a model that the family cannot express.

        Among them is every field that the family does not name and that is not at its default.
        """
        needed = {**self._unnamed(model), **self.has, **self.required(model)}
        found = [
            f"model.{name} is {getattr(model, name)}, the family has {value}"
            for name, value in needed.items()
            if getattr(model, name) != value
        ]
        found += [objection for derived in self.derived for objection in derived.objections(model)]
        return found or [f"the family has no rule for {name}" for name in self._without_rule(model)]

    def moves(self, model: ModelConfig) -> Iterator[Move]:
        """Return every tensor of a model, layer by layer.

        Raises:
            CheckpointError: The model has parameters for which the family has no rule.
        """
        if missing := self._without_rule(model):
            raise CheckpointError(f"The family {self.model_type} has no rule for {', '.join(missing)}.")
        has = {split_layer(parameter.name) for parameter in parameter_table(model)}
        num_experts, rules = model.num_moe_experts or 0, self.rules
        first = next((number for number, rule in enumerate(rules) if "{}" in rule.ours), len(rules))
        last = first + sum("{}" in rule.ours for rule in rules)
        yield from (rule.of_layer(0, 0) for rule in rules[:first] if (None, rule.ours) in has)
        for layer in range(model.num_layers):
            for rule in rules[first:last]:
                if (layer, rule.ours.removeprefix(f"{LAYERS}{{}}.")) in has:
                    yield rule.of_layer(layer, num_experts, is_latent=model.multi_latent_attention)
        yield from (rule.of_layer(0, 0) for rule in rules[last:] if (None, rule.ours) in has)

    def _unnamed(self, model: ModelConfig) -> dict[str, object]:
        """Return the defaults of the fields that the family does not name."""
        derived = (name for one in self.derived for name in one.fields)
        biases = ("add_bias_linear",) if self.has_bias_keys else ()
        rotary = ("rotary_percent",) if self.rotary_share is not None else ()
        named = {*_IN_EVERY_FAMILY, *self.fields.values(), *derived, *biases, *rotary}
        return {name: field.default for name, field in type(model).model_fields.items() if name not in named}

    def _without_rule(self, model: ModelConfig) -> list[str]:
        known = {rule.ours for rule in self.rules}
        return [name for name in _rule_names(model) if name not in known]


def _rule_names(model: ModelConfig) -> dict[str, None]:
    """The names of a model's parameters as rules spell them, in the order of the table."""
    names = [split_layer(parameter.name) for parameter in parameter_table(model)]
    return dict.fromkeys(name if layer is None else f"{LAYERS}{{}}.{name}" for layer, name in names)
