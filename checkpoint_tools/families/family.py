"""Families of Hugging Face models: a table of tensors, and the allowed contents of `config.json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from checkpoint_tools.layout import UNCHANGED, Fusion
from harness.config.schema import ModelConfig

Fields = dict[str, Any]
"""A `config.json`."""
Judge = Callable[[str, torch.Tensor, ModelConfig], dict[str, torch.Tensor]]


def always(model: ModelConfig) -> bool:
    """Return true: every model of the family has the tensor."""
    return True


@dataclass(frozen=True, kw_only=True)
class Move:
    """A rule for one layer: what is read, what is written."""

    ours: str
    theirs: tuple[str, ...]
    fusion: Fusion


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One tensor of ours, and the tensors of theirs with the same numbers. `{}` is replaced by the layer."""

    ours: str
    theirs: tuple[str, ...]
    fusion: Fusion = UNCHANGED
    when: Callable[[ModelConfig], bool] = always
    """Returns whether a model has it."""

    def of_layer(self, layer: int) -> Move:
        """Return the rule for one layer."""
        theirs = tuple(name.replace("{}", str(layer)) for name in self.theirs)
        return Move(ours=self.ours.replace("{}", str(layer)), theirs=theirs, fusion=self.fusion)


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family. Everything about it is in this table; nothing else knows its name."""

    model_type: str
    """`model_type` in `config.json`."""
    architecture: str
    """Class in transformers."""
    rules: tuple[Rule, ...]
    fields: Mapping[str, str]
    """Key of `config.json` to field of our model."""
    required: Callable[[ModelConfig], Mapping[str, object]] = field(default=lambda model: {})
    """Fields of our model that the family cannot have otherwise."""
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Keys that change the function, and the only values that are known here; the first one is written."""
    ignored: tuple[str, ...] = ()
    """Further keys that do not change the function."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Defaults of the family's class for keys that `config.json` lacks."""
    has_bias_keys: bool = False
    """The keys `attention_bias` and `mlp_bias` tell if there are biases."""
    is_written: bool = True
    """Models are written as this family, and not only read."""
    judge: Judge | None = None
    """Their tensor as Llama's tensors, where transformers does not know this family."""

    def moves(self, model: ModelConfig) -> Iterator[Move]:
        """Yield every tensor of a model, layer by layer."""
        rules = [rule for rule in self.rules if rule.when(model)]
        first = next((number for number, rule in enumerate(rules) if "{}" in rule.ours), len(rules))
        last = first + sum("{}" in rule.ours for rule in rules)
        yield from (rule.of_layer(0) for rule in rules[:first])
        for layer in range(model.num_layers):
            yield from (rule.of_layer(layer) for rule in rules[first:last])
        yield from (rule.of_layer(0) for rule in rules[last:])
