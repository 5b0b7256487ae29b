"""A model that is larger than the one it is converted from, and computes the same at the start.

Blocks are copied behind themselves with output projections of zero, so that a copy adds nothing to the residual stream
until it is trained (LLaMA Pro, arXiv:2401.02415; Sailor 2, arXiv:2502.12982). New rows of the vocabulary get the mean
of the old ones (Hewitt 2021: the new tokens then take no more probability than an average one). Each MLP becomes
experts that are copies of it, behind a router that is drawn anew: weights of a token's experts add up to 1, so that
whichever are chosen give what the MLP gave (Komatsuzaki et al. 2023, arXiv:2212.05055).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from checkpoint_tools.families.config_json import MAX_WIDTH
from harness.config.model import ModelConfig
from harness.errors import UsageError
from harness.parameters.names import in_layer, split_layer
from harness.parameters.table import find_parameter

Read = Callable[[str], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Growth:
    """Growth of a model. Without arguments nothing grows."""

    copied_layers: tuple[int, ...] = ()
    """Layers, counted from 0, that are followed by a copy of themselves."""
    vocab_size: int | None = None
    """Rows of the new vocabulary; None: as many as before."""
    num_experts: int | None = None
    """Experts that each MLP becomes; None: it stays one."""
    experts_per_token: int = 2
    """Experts that compute a token, if MLPs become experts."""

    def grown(self, model: ModelConfig) -> ModelConfig:
        """Return the larger model.

        Raises:
            UsageError: A layer is named that the model does not have, or one twice; the vocabulary would shrink, or be
                larger than any model's; or its MLPs cannot become experts.
        """
        if self.num_experts is not None:
            model = _with_experts(model, self.num_experts, self.experts_per_token)

        layers = range(model.num_layers)
        if len(set(self.copied_layers)) != len(self.copied_layers) or not set(self.copied_layers) <= set(layers):
            named = ",".join(map(str, self.copied_layers))
            raise UsageError(
                f"--expand-layers {named}: name each layer once, by its number from 0 to {model.num_layers - 1}."
            )
        size = self.vocab_size or model.vocab_size
        if size > MAX_WIDTH:
            raise UsageError(f"--vocab-size {size} is larger than any model's: at most {MAX_WIDTH:,} rows.")
        if size < model.vocab_size:
            raise UsageError(
                f"--vocab-size {size} is smaller than the model's {model.vocab_size}: rows are only added."
            )
        copies = [2 if layer in self.copied_layers else 1 for layer in layers]
        numbers = [layer for layer, number in zip(layers, copies, strict=True) for _ in range(number)]
        return model.with_layers(numbers).model_copy(update={"vocab_size": size})

    def first_layers(self, num_layers: int) -> int:
        """Return the number of layers of the larger model that come from the first `num_layers` of the smaller one."""
        return num_layers + sum(layer < num_layers for layer in self.copied_layers)

    def places_of_copies(self) -> tuple[int, ...]:
        """Return the layers of the larger model that are copies, counted from 0."""
        return tuple(self.first_layers(layer) + 1 for layer in sorted(self.copied_layers))

    def reader(self, read: Read, model: ModelConfig) -> Read:
        """Give tensors of the larger model out of those of the smaller one, `model`."""
        grown = self.grown(model)
        read = read if self.num_experts is None else _experts_from(read, grown)
        sources = [
            (layer, is_copy)
            for layer in range(model.num_layers)
            for is_copy in ((False, True) if layer in self.copied_layers else (False,))
        ]

        def read_grown(name: str) -> torch.Tensor:
            parameter = find_parameter(name, grown)
            if parameter.num_true_rows is not None:
                return _more_rows(read(name), model, grown)
            number, rest = split_layer(name)
            if number is None:
                return read(name)
            layer, is_copy = sources[number]
            tensor = read(in_layer(layer, rest))
            return torch.zeros_like(tensor) if is_copy and parameter.writes_to_residual else tensor

        return read_grown


NO_GROWTH = Growth()
ROUTER = "mlp.router.weight"
OF_EXPERTS = {f"mlp.experts.{name}.weight": f"mlp.{name}.weight" for name in ("linear_fc1", "linear_fc2")}
"""Tensors of experts in a layer, and those of the MLP that they are copies of."""


def _with_experts(model: ModelConfig, num_experts: int, topk: int) -> ModelConfig:
    """Return a model whose MLPs are experts that a softmax over the chosen ones weighs."""
    if model.num_moe_experts is not None:
        raise UsageError(f"--experts {num_experts}: the model has {model.num_moe_experts} experts already.")
    if model.add_bias_linear:
        raise UsageError(f"--experts {num_experts}: the model's MLPs have biases, which experts here do not have.")
    if not 2 <= topk <= num_experts:
        raise UsageError(
            f"--experts-per-token {topk}: give a number from 2 to --experts {num_experts}. One expert alone would have "
            "a weight of 1 whatever the router says, and the router would never learn."
        )
    return model.model_copy(
        update={
            "num_moe_experts": num_experts,
            "moe_router_topk": topk,
            "moe_router_score_function": "softmax",
            "moe_router_enable_expert_bias": False,
        }
    )


def _experts_from(read: Read, grown: ModelConfig) -> Read:
    """Give tensors of a model with experts out of those of the dense one with as many layers."""

    def read_expert(name: str) -> torch.Tensor:
        layer, rest = split_layer(name)
        if layer is None or rest not in (ROUTER, *OF_EXPERTS):
            return read(name)
        num_experts = grown.num_moe_experts or 0
        if rest in OF_EXPERTS:
            return read(in_layer(layer, OF_EXPERTS[rest]))[None].repeat(num_experts, 1, 1)
        like = read(in_layer(layer, OF_EXPERTS["mlp.experts.linear_fc2.weight"]))
        generator = torch.Generator().manual_seed(layer)
        drawn = torch.empty(num_experts, grown.hidden_size).normal_(0.0, grown.init_method_std, generator=generator)
        return drawn.to(like.dtype)

    return read_expert


def _more_rows(rows: torch.Tensor, model: ModelConfig, grown: ModelConfig) -> torch.Tensor:
    """Extend `[P, H]` of the smaller vocabulary to `[P, H]` of the larger one, with zeros."""
    result = rows.new_zeros(grown.padded_vocab_size, rows.size(1))
    result[: model.vocab_size] = rows[: model.vocab_size]
    result[model.vocab_size : grown.vocab_size] = rows[: model.vocab_size].float().mean(dim=0).to(rows.dtype)
    return result
