"""Layers with experts: Megatron's layer and dispatchers, with our router and our experts.

Ours, because Megatron's router scales auxiliary losses for its own average over tokens (0.16 wrongly under tensor
parallelism), moves the experts' bias before a step is accepted, and because its experts need Transformer Engine or a
loop. Shapes: S sequence of this rank, B micro batch, T = S·B tokens, H hidden size, E experts, e experts of this rank,
F width of an expert, f this rank's share of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from harness.config.model import ModelConfig
from harness.model.activation import Activation
from harness.model.experts import routing, uneven
from harness.model.experts.products import each_with_its_own, grouped_product
from harness.model.experts.tally import Tally
from harness.model.recompute import computed_by
from harness.model.saved.mcore import SavedWhole
from harness.model.side_loss import with_loss
from harness.parallel import collectives, cpu
from harness.parallel.megatron_changes import replace

cpu.prepare()

from megatron.core import parallel_state  # noqa: E402 (the CPU must be prepared first)
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory  # noqa: E402
from megatron.core.transformer.moe import token_dispatcher  # noqa: E402
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules  # noqa: E402
from megatron.core.transformer.moe.shared_experts import SharedExpertMLP  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec  # noqa: E402

_all_to_all = token_dispatcher.all_to_all
_megatron_gather = token_dispatcher.gather_from_sequence_parallel_region
_megatron_reduce_scatter = token_dispatcher.reduce_scatter_to_sequence_parallel_region


def _all_to_all_by_numbers(group: Any, tokens: Any, *sizes: Any, **ways: Any) -> Any:  # noqa: ANN401 (Megatron's)
    """Call Megatron's function with sizes as lists of whole numbers: gloo takes nothing else."""
    lists = [None if each is None else [int(size) for size in each] for each in sizes]
    return _all_to_all(group, tokens, *lists, **ways)


def _gather(tokens: torch.Tensor, *, group: Any, output_split_sizes: Any = None, **ways: Any) -> Any:  # noqa: ANN401
    """Gather as Megatron does, also unequal numbers of tokens over gloo."""
    if not _are_uneven_on_a_cpu(tokens, output_split_sizes):
        return _megatron_gather(tokens, group=group, output_split_sizes=output_split_sizes, **ways)
    return uneven.gathered(tokens, output_split_sizes, partial(_all_to_all, group))


def _reduce_scatter(tokens: torch.Tensor, *, group: Any, input_split_sizes: Any = None, **ways: Any) -> Any:  # noqa: ANN401
    """Add up and scatter as Megatron does, also unequal numbers of tokens over gloo."""
    if not _are_uneven_on_a_cpu(tokens, input_split_sizes):
        return _megatron_reduce_scatter(tokens, group=group, input_split_sizes=input_split_sizes, **ways)
    return uneven.scattered_sum(tokens, input_split_sizes, group.rank(), partial(_all_to_all, group))


def _are_uneven_on_a_cpu(tokens: torch.Tensor, sizes: list[int] | None) -> bool:
    return tokens.device.type == "cpu" and sizes is not None and len(set(sizes)) > 1


replace(token_dispatcher, "all_to_all", _all_to_all_by_numbers)
replace(token_dispatcher, "gather_from_sequence_parallel_region", _gather)
replace(token_dispatcher, "reduce_scatter_to_sequence_parallel_region", _reduce_scatter)


def expert_settings(model: ModelConfig) -> dict[str, Any]:
    """Return Megatron's settings of a model with experts; none for a dense one.

    What our router does is left out: balance, losses, bias.
    """
    if not any(model.expert_layers):
        return {}
    return {
        "num_moe_experts": model.num_moe_experts,
        # With a list Megatron's checkpoints number the layers; with 1 they stack them.
        "moe_layer_freq": 1 if model.has_equal_layers else list(map(int, model.expert_layers)),
        "moe_ffn_hidden_size": model.expert_width,
        "moe_router_topk": model.moe_router_topk,
        "moe_router_load_balancing_type": "none",
        "moe_router_pre_softmax": True,  # allows one expert for each token
        "moe_shared_expert_intermediate_size": model.moe_shared_expert_intermediate_size,
        "moe_shared_expert_gate": model.moe_shared_expert_gate,
        "moe_token_dispatcher_type": model.moe_token_dispatcher_type,
    }


def expert_mlp(model: ModelConfig, parts_of_mlp: Any) -> ModuleSpec:  # noqa: ANN401 (Megatron's MLPSubmodules)
    """Return what a layer with experts has in place of its MLP, whose parts make the shared experts."""
    return ModuleSpec(
        module=MoELayer,
        submodules=MoESubmodules(
            experts=ModuleSpec(module=Experts, params={"activation": model.activation}),
            shared_experts=ModuleSpec(module=SharedExpertMLP, submodules=parts_of_mlp),
            router=partial(Router, model=model),
        ),
    )


def tallies_in(chunk: nn.Module) -> list[Tally]:
    """Return the tallies of all routers of a model chunk."""
    return [module.tally for module in chunk.modules() if isinstance(module, Router)]


def add_up_shared_gradients(mlp: nn.Module) -> None:
    """Let the gradients of what shared experts and their gate read be added up before they meet those of the router.

    So they are where shared experts are recomputed; another order would give other last bits.
    """
    shared = mlp.shared_experts if isinstance(mlp, MoELayer) else None
    if shared is not None and shared.use_shared_expert_gate:
        shared.register_forward_pre_hook(_alias)


def _alias(_shared: object, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(each.view_as(each) for each in inputs)


def let_graphs_go(mlp: nn.Module) -> None:
    """Let the dispatcher of a layer with experts hold no tensor of a forward pass that is over.

    Megatron's keeps some until the next one, and with them what autograd knows of the pass: from there a way leads back
    to the model, which no collector of cycles sees. A model that ends would keep its memory and its process groups.
    """
    if isinstance(mlp, MoELayer):
        mlp.register_forward_hook(_forget)


def _forget(mlp: Any, _inputs: object, _outputs: object) -> None:  # noqa: ANN401 (Megatron's MoELayer)
    dispatcher = mlp.token_dispatcher
    for name, value in vars(dispatcher).items():
        if isinstance(value, torch.Tensor) and value.requires_grad:
            setattr(dispatcher, name, None)


class Router(SavedWhole):
    """Chooses the experts of each token, in fp32."""

    def __init__(self, *, model: ModelConfig, config: Any, **_megatron_arguments: Any) -> None:  # noqa: ANN401
        super().__init__()
        num_experts, dtype = config.num_moe_experts, config.params_dtype
        self._rules = routing.Rules.of(model)
        self._model = model
        self._group = parallel_state.get_tensor_and_context_parallel_group()
        device = torch.cuda.current_device()
        self.weight = nn.Parameter(torch.empty(num_experts, config.hidden_size, dtype=dtype, device=device))
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.bias: nn.Parameter | None = None
        if model.add_bias_linear:
            self.bias = nn.Parameter(torch.empty(num_experts, dtype=dtype, device=device))
            self.bias.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
        self.tally = Tally(num_experts=num_experts, bias_rate=model.moe_router_bias_update_rate)
        if model.moe_router_enable_expert_bias:
            self.register_buffer("expert_bias", torch.zeros(num_experts, dtype=torch.float32, device=device))

    def set_layer_number(self, layer_number: int) -> None:
        """Take the number of the layer in the whole model, from 1 on."""
        self.tally.row = sum(self._model.routed_layers[: layer_number - 1])

    def forward(self, hidden_SBH: torch.Tensor, _padding_mask: object = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the weights of the experts for each token, and which are chosen: `[T, E]` both."""
        logits_SBE: torch.Tensor = _RouterProduct.apply(hidden_SBH, self.weight)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            logits_SBE = logits_SBE + self.bias.float()
        logits_TE = logits_SBE.flatten(0, 1)
        self.tally.bias_E = bias_E = getattr(self, "expert_bias", None)
        weights_TE, chosen_TE = routing.choose(logits_TE, bias_E, self._rules)
        if self.training and torch.is_grad_enabled():  # full recomputation has come here without gradients before
            weights_TE = self._with_losses(weights_TE, chosen_TE, logits_SBE)
        return weights_TE, chosen_TE

    def _with_losses(self, weights_TE: torch.Tensor, chosen_TE: torch.Tensor, logits_SBE: torch.Tensor) -> torch.Tensor:
        """Count this micro-batch, and attach the router's losses to what goes on."""
        aux_weight, z_weight = self._model.moe_aux_loss_coeff, self._model.moe_z_loss_coeff
        shares_SBE = routing.shares(logits_SBE, self._rules)
        z_loss = logits_SBE.logsumexp(dim=-1).square().sum()
        aux_loss = self._aux_loss(shares_SBE) if aux_weight else torch.zeros_like(z_loss)
        self.tally.add(chosen_TE.sum(dim=0), aux_loss, z_loss, routing.entropy(shares_SBE.detach()))
        if not (aux_weight or z_weight):
            return weights_TE
        loss = aux_weight * aux_loss + z_weight * z_loss
        return with_loss(weights_TE, self.tally.loss_weight * loss)

    def _aux_loss(self, shares_SBE: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the auxiliary loss, times the tokens that it is the mean of."""
        model, size = self._model, self._group.size()
        preferred_SBE = routing.most_preferred(shares_SBE.detach(), model.moe_router_topk)
        # One sequence for each sample, or one for the whole micro-batch.
        shares_NLE, preferred_NLE = shares_SBE.transpose(0, 1), preferred_SBE.transpose(0, 1)
        if model.moe_router_load_balancing_type == "aux_loss":
            shares_NLE, preferred_NLE = shares_NLE.flatten(0, 1)[None], preferred_NLE.flatten(0, 1)[None]
        counts_NE = preferred_NLE.sum(dim=1)
        if size > 1:
            counts_NE = collectives.sum_over(counts_NE, self._group)
        length: int = shares_NLE.size(1) * size
        return length * routing.imbalance(shares_NLE, counts_NE, length=length, topk=model.moe_router_topk)


class _RouterProduct(torch.autograd.Function):
    """The router's logits in fp32, of which autograd keeps the inputs in their own format."""

    @staticmethod
    def forward(ctx: Any, hidden_SBH: torch.Tensor, weight_EH: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Multiply in fp32."""
        ctx.save_for_backward(hidden_SBH, weight_EH)
        return hidden_SBH.float() @ weight_EH.float().T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogits_SBE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401
        """Return the gradients in the formats of what they are of."""
        hidden_SBH, weight_EH = ctx.saved_tensors
        dhidden_SBH = dlogits_SBE @ weight_EH.float()
        dweight_EH = dlogits_SBE.flatten(0, 1).T @ hidden_SBH.flatten(0, 1).float()
        return dhidden_SBH.to(hidden_SBH.dtype), dweight_EH.to(weight_EH.dtype)


class Experts(nn.Module):
    """The experts of this rank, each its own MLP, in two tensors."""

    def __init__(
        self,
        num_local_experts: int,
        config: Any,  # noqa: ANN401 (Megatron's)
        *,
        activation: str,
        **_megatron_arguments: Any,  # noqa: ANN401
    ) -> None:
        super().__init__()
        group = parallel_state.get_expert_tensor_parallel_group()
        share, self._own_outputs = config.moe_ffn_hidden_size // group.size(), config.hidden_size // group.size()
        num_blocks = 2 if config.gated_linear_unit else 1
        first, second = (num_blocks * share, config.hidden_size), (config.hidden_size, share)
        weights = partial(ExpertWeights, num_local_experts, dtype=config.params_dtype)
        has_bias = config.add_bias_linear
        self.linear_fc1 = weights(*first, dim=1, num_blocks=num_blocks, num_biases=first[0] if has_bias else 0)
        self.linear_fc2 = weights(*second, dim=2, num_blocks=1, num_biases=self._own_outputs if has_bias else 0)
        self._first_output = group.rank() * self._own_outputs
        self.activation = Activation(kind=activation, module="moe_act")

    def forward(
        self, tokens_TH: torch.Tensor, tokens_per_expert: torch.Tensor, weights_T: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Return what each token's expert makes of it, times its weight, and no bias.

        Tokens come in the order of their experts. With several expert-tensor-parallel ranks, the parts of all add up.
        """
        mixed_Tf = grouped_product(tokens_TH, self.linear_fc1.weight, tokens_per_expert)
        if self.linear_fc1.bias is not None:
            mixed_Tf = mixed_Tf + each_with_its_own(self.linear_fc1.bias, tokens_per_expert)
        activated_Tf = self.activation(mixed_Tf)
        # From what the product gives: a recipe that held the activated tokens would keep them.
        kept_Tf, kept_T = mixed_Tf.detach(), weights_T.detach()
        weighted_Tf = computed_by(
            "moe_act",
            _weighted(activated_Tf, weights_T),
            lambda: _weighted(self.activation(kept_Tf), kept_T),
        )
        output_TH = grouped_product(weighted_Tf, self.linear_fc2.weight, tokens_per_expert)
        if self.linear_fc2.bias is not None:
            own_Th = _weighted(each_with_its_own(self.linear_fc2.bias, tokens_per_expert), weights_T)
            behind = tokens_TH.size(-1) - self._first_output - self._own_outputs
            output_TH = output_TH + functional.pad(own_Th, (self._first_output, behind))
        return output_TH, None

    def sharded_state_dict(self, prefix: str = "", *arguments: Any, **keywords: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the weights with their places."""
        return {
            **self.linear_fc1.sharded_state_dict(f"{prefix}linear_fc1.", *arguments, **keywords),
            **self.linear_fc2.sharded_state_dict(f"{prefix}linear_fc2.", *arguments, **keywords),
        }

    def backward_dw(self) -> None:
        """Do nothing: gradients of weights are computed with the others."""


def _weighted(x_Tf: torch.Tensor, weights_T: torch.Tensor) -> torch.Tensor:
    return (x_Tf * weights_T.unsqueeze(-1)).to(x_Tf.dtype)


class ExpertWeights(nn.Module):
    """A matrix of each expert of this rank, cut over expert-tensor-parallel ranks along `dim`: `[e, …]`.

    With biases, each rank has an equal part of those of an expert: `[e, biases]`.
    """

    def __init__(
        self, num_experts: int, *matrix: int, dim: int, num_blocks: int, num_biases: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.weight = _of_experts(num_experts, *matrix, dtype=dtype)
        self.bias = _of_experts(num_experts, num_biases, dtype=dtype) if num_biases else None
        self._dim, self._num_blocks = dim, num_blocks

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,  # noqa: ARG002 (Megatron gives it by name)
    ) -> dict[str, Any]:
        """Return weights and biases with their place among all experts, and in each."""
        sharded = {f"{prefix}weight": self._sharded(f"{prefix}weight", self.weight, self._dim, sharded_offsets)}
        if self.bias is not None:
            sharded[f"{prefix}bias"] = self._sharded(f"{prefix}bias", self.bias, 1, sharded_offsets)
        return sharded

    def _sharded(
        self, name: str, tensor: torch.Tensor, dim: int, offsets: tuple[tuple[int, int, int], ...]
    ) -> ShardedTensor | ShardedTensorFactory:
        replica = (0, 0, parallel_state.get_expert_data_parallel_rank())
        build = partial(_blocks, offsets=offsets, dim=dim, num_blocks=self._num_blocks)
        if self._num_blocks == 1:
            (sharded,) = build(name, tensor, replica)
            return sharded
        return ShardedTensorFactory(name, tensor, build, partial(torch.cat, dim=dim), replica)


def _of_experts(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device=torch.cuda.current_device()))
    parameter.allreduce = False  # type: ignore[attr-defined]  # Megatron's mark: reduced over copies of the experts
    return parameter


def _blocks(
    name: str,
    tensor: torch.Tensor,
    replica_id: tuple[int, int, int],
    _flattened_range: object = None,
    *,
    offsets: tuple[tuple[int, int, int], ...],
    dim: int,
    num_blocks: int,
) -> list[ShardedTensor]:
    """Return the blocks of a tensor of experts, each cut on its own, with their places in the whole tensor."""
    experts = parallel_state.get_expert_model_parallel_group()
    each = parallel_state.get_expert_tensor_parallel_group()
    axis = len(offsets)  # axes that stand in front: the layer
    # A single block is the tensor itself: Megatron's optimizer knows parameters by their identity.
    blocks = (tensor,) if num_blocks == 1 else tensor.chunk(num_blocks, dim=dim)
    return [
        ShardedTensor.from_rank_offsets(
            name,
            part,
            *offsets,
            (axis, experts.rank(), experts.size()),
            (axis + dim, number * each.size() + each.rank(), num_blocks * each.size()),
            replica_id=replica_id,
            prepend_axis_num=axis,
        )
        for number, part in enumerate(blocks)
    ]
