"""Megatron's distributed optimizer, stepped in two halves: a step can be refused once its gradients are known."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from harness.config.schema import Config
from harness.config.schema import OptimizerConfig as Settings
from harness.optim.adamw import AdamW, with_states
from harness.optim.muon.mcore import make_muon
from harness.optim.muon.update import Muon
from harness.parallel import collectives, cpu
from harness.parallel.megatron_changes import replace
from harness.parameters.names import matches_any, plain_name
from harness.parameters.table import find_parameter

cpu.prepare()

import megatron.core.optimizer as megatron_optimizer  # noqa: E402 (the CPU must be prepared first)
from megatron.core.optimizer import (  # noqa: E402
    OptimizerConfig,
    ParamKey,
    distrib_optimizer,
    get_megatron_optimizer,
)
from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate  # noqa: E402
from megatron.core.transformer.module import param_is_not_shared  # noqa: E402

_WITHOUT_DECAY = {ParamKey(attr="has_no_weight_decay"): {"wd_mult": 0.0}}
"""Marked by `harness.model`, out of the table of parameters."""


class Optimizer:
    """The optimizer, sharded over data-parallel ranks, over all model chunks of this rank.

    Megatron updates by AdamW whatever has a gradient. Before that, Muon updates hidden matrices, and drops theirs.
    """

    def __init__(self, config: Config, chunks: list[nn.Module]) -> None:
        _use_own_adam()
        settings = config.optimizer
        self._kind = settings.traits
        self.megatron: Any = get_megatron_optimizer(
            OptimizerConfig(
                optimizer=self._kind.megatron_name,
                lr=1.0,  # set before every update; later versions know groups of a checkpoint again by this value
                weight_decay=settings.weight_decay,
                adam_beta1=settings.adam_beta1,
                adam_beta2=settings.adam_beta2,
                adam_eps=settings.adam_eps,
                clip_grad=settings.clip_grad,
                bf16=config.precision.dtype == "bf16",
                params_dtype=torch.bfloat16 if config.precision.dtype == "bf16" else torch.float32,
                use_distributed_optimizer=True,
            ),
            chunks,
            config_overrides=_WITHOUT_DECAY,
            use_gloo_process_groups=False,
        )
        self._grad_norm = self._gradient_scale = torch.zeros(())
        self._states = self._names_of_states(config, chunks)
        self._muon = self._made_muon(config) if self._kind.orthogonalizes else None
        self.follow(settings)

    def follow(self, settings: Settings, frozen: Collection[str] = ()) -> None:
        """Use these settings from here on, and do not update parameters whose name matches a pattern in `frozen`.

        The moments of a frozen parameter stay as they are. Its gradient is computed, because Megatron reduces whole
        buckets, and then ignored.
        """
        self._clip_grad = settings.clip_grad
        self._group_options = self._kind.group_options(settings)
        self._weight_decay = settings.weight_decay

        def is_frozen(name: str) -> bool:
            return matches_any(plain_name(name), frozen)

        self._frozen = [shard for tensor, shard in self._shards() if is_frozen(tensor.whole_name)]
        if self._muon is not None:
            self._muon.follow(settings, is_frozen)

    def zero_grad(self) -> None:
        """Drop the parameters' gradients. The owner of the chunks zeroes their gradient buffers."""
        self.megatron.zero_grad()

    @torch.no_grad()
    def prepare(self, gradient_scale: torch.Tensor) -> torch.Tensor:
        """Move the reduced gradients to where the update reads them, and return their L2 norm before clipping.

        The gradients are those that were reduced, times `gradient_scale`, a number on the device; the update multiplies
        within its kernel. Does not wait for the device. Every rank must call it.
        """
        self.megatron.prepare_grads()
        for shard in self._frozen:
            shard.grad = None
        self._gradient_scale = gradient_scale
        self._grad_norm = self._norm() * gradient_scale
        return self._grad_norm

    def _names_of_states(self, config: Config, chunks: list[nn.Module]) -> dict[int, tuple[str, ...]]:
        """Return the names of the states of each shard, by its `id`, and tell its parameter, for checkpoints."""
        for chunk in chunks:
            tensor: Any  # which `harness.model` has marked
            for tensor in chunk.parameters():
                is_matrix = find_parameter(tensor.whole_name, config.model).is_matrix
                tensor.kept_states = self._kind.states_of(is_matrix=is_matrix)
        return {id(shard): tensor.kept_states for tensor, shard in self._shards()}

    def _made_muon(self, config: Config) -> Muon:
        # Megatron makes whatever state is not there before a load, and knows only AdamW's.
        for _ in self.tensors():
            pass
        return make_muon(config, self._parts(), {id(tensor): shard for tensor, shard in self._shards()})

    def _shards(self) -> Iterator[tuple[Any, torch.Tensor]]:
        """Yield this rank's shard of each parameter that it updates, behind the parameter."""
        for part in self._parts():
            pairs = (
                (part.model_float16_groups, part.shard_fp32_from_float16_groups),
                (part.model_fp32_groups, part.shard_fp32_groups),
            )
            for models, shards in pairs:
                for of_model, of_shard in zip(models, shards, strict=True):
                    yield from zip(of_model, of_shard, strict=True)

    @torch.no_grad()
    def update(self, learning_rate: float, betas: tuple[float, float] | None = None) -> None:
        """Clip the prepared gradients and update, with other betas of AdamW than the configuration's if given.

        Every rank must call it.
        """
        for group in self.megatron.param_groups:
            group["lr"] = learning_rate
            group |= self._group_options | ({"betas": betas} if betas else {})
            # Megatron leaves it to its scheduler to apply the factor, which is 0 for norms and biases.
            group["weight_decay"] = self._weight_decay * group["wd_mult"]
        divisor = self._divisor()
        for part in self._parts():
            part.optimizer.gradient_divisor = divisor
        self._make_states_of_frozen()
        if self._muon is not None:
            self._muon.update(learning_rate, divisor=divisor)
        self.megatron.step_with_ready_grads()

    def gradient_is_finite(self) -> bool:
        """Return whether this rank's share of the prepared gradients is finite."""
        gradients = [p.grad for part in self._parts() for p in part.get_parameters() if p.grad is not None]
        return all(bool(norm.isfinite()) for norm in torch._foreach_norm(gradients)) if gradients else True

    def state_norms(self) -> dict[str, float]:
        """Return the L2 norm of each kind of optimizer state over the whole model. Every rank must call it."""
        return self.joint_norms(self.own_squares())

    def own_squares(self) -> list[float]:
        """Return the sum of the squares of each kind of optimizer state that this rank contributes to `joint_norms`."""
        names = self._kind.states
        totals = torch.zeros(len(names), dtype=torch.float64, device=torch.cuda.current_device())
        for part in self._parts():
            for parameter, state in part.optimizer.state.items():
                if _counts_once(parameter) and all(name in state for name in self._states[id(parameter)]):
                    # Adds up in float64 without a copy in float64, which would be twice the state.
                    for total, name in zip(totals, names, strict=True):
                        if name in state:
                            total += torch.linalg.vector_norm(state[name], dtype=torch.float64).square()
        return totals.tolist()

    def joint_norms(self, squares: Sequence[float]) -> dict[str, float]:
        """Return the norms over the whole model from the `own_squares` of every rank, which must all call it."""
        totals = torch.tensor(squares, dtype=torch.float64, device=torch.cuda.current_device())
        collectives.sum_over(totals)
        return {name: math.sqrt(value) for name, value in zip(self._kind.states, totals.tolist(), strict=True)}

    def tensors(self) -> Iterator[torch.Tensor]:
        """Yield this rank's share of the optimizer's state: the weights that it updates, and their moments.

        Missing moments are made here as zeros, as an update would make them.
        """
        for part in self._parts():
            for group in part.optimizer.param_groups:
                for parameter in group["params"]:
                    state = with_states(part.optimizer.state[parameter], parameter, self._states[id(parameter)])
                    yield parameter
                    yield from (state[name] for name in sorted(state) if isinstance(state[name], torch.Tensor))

    def steps(self) -> tuple[int, ...]:
        """Return the number of updates of each parameter group, for the correction of the moments' bias."""
        return tuple(int(group.get("step", 0)) for group in self._groups())

    def set_steps(self, steps: Sequence[int]) -> None:
        """Set the numbers that `steps` returned."""
        for group, step in zip(self._groups(), steps, strict=True):
            group["step"] = step

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts() for group in part.optimizer.param_groups]

    def _make_states_of_frozen(self) -> None:
        """Make states of zeros where an update would have made them: a checkpoint holds those of every parameter."""
        for part in self._parts() if self._frozen else ():
            own = {id(parameter) for parameter in part.get_parameters()}
            for shard in self._frozen:
                if id(shard) in own:
                    with_states(part.optimizer.state[shard], shard, self._states[id(shard)])

    def _parts(self) -> list[Any]:
        return [part for part in self.megatron.chained_optimizers if not part.is_stub_optimizer]

    def _norm(self) -> torch.Tensor:
        """Return the gradient norm.

        Takes one fused kernel and one reduction, instead of Megatron's copy to the host per tensor.
        """
        parameters = [p for part in self._parts() for p in part.get_parameters()]
        gradients = [p.grad for p in parameters if p.grad is not None and _counts_once(p)]
        square_sum = torch.zeros((), dtype=torch.float32, device=torch.cuda.current_device())
        if gradients:
            square_sum += torch.stack(torch._foreach_norm(gradients)).square().sum()
        return collectives.sum_over(square_sum, self.megatron.get_grad_stats_parallel_group()).sqrt()

    def _divisor(self) -> torch.Tensor:
        """Return the divisor of the gradients in an update: for their scale, and for clipping."""
        divisor = 1.0 / self._gradient_scale
        if self._clip_grad > 0.0:
            divisor = divisor * ((self._grad_norm + 1e-6) / self._clip_grad).clamp(min=1.0)
        return divisor


def _counts_once(parameter: torch.Tensor) -> bool:
    """Return whether this rank counts the parameter: other ranks may hold copies."""
    return bool(param_is_not_shared(parameter) and param_is_not_tensor_parallel_duplicate(parameter))


def _use_own_adam() -> None:
    """Set our AdamW as Megatron's Adam, whichever it has found.

    Transformer Engine's and apex's need a GPU, also where they are merely installed, and cannot divide gradients within
    their kernels.
    """
    replace(megatron_optimizer, "Adam", AdamW)
    replace(megatron_optimizer, "USING_PYTORCH_OPTIMIZER", False)
    replace(distrib_optimizer, "Adam", AdamW)
    # Only these two decide where checkpoints look for the step: in the parameter group, as apex keeps it.
    replace(distrib_optimizer, "HAVE_APEX_OR_TE", True)
    replace(distrib_optimizer, "USING_APEX_OPTIMIZER", True)
