"""Models with experts in Hugging Face's code, and a plain loop that trains them, router losses and biases written out.

`harness.model.experts` is not imported: what it computes is computed here by other words.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from reference import Weights, cosine_with_warmup, hugging_face_weights, token_losses, training_data
from torch.nn import functional

from harness.config.model import ModelConfig
from harness.config.schema import Config

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import Glm4MoeConfig, Glm4MoeForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

_IN_LAYER = {
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.experts.linear_fc1.weight": "mlp.experts.gate_up_proj",
    "mlp.experts.linear_fc2.weight": "mlp.experts.down_proj",
    "mlp.shared_experts.linear_fc2.weight": "mlp.shared_experts.down_proj.weight",
}


def hugging_face_experts(model: ModelConfig, weights: Weights) -> torch.nn.Module:
    """Qwen3-MoE if the router has a softmax, else GLM-4-MoE, with the weights of ours."""
    experts = model.num_moe_experts
    shape = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "moe_intermediate_size": model.moe_ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.query_groups,
        "head_dim": model.head_size,
        "num_experts_per_tok": model.moe_router_topk,
        "norm_topk_prob": True,
        "rms_norm_eps": model.norm_epsilon,
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "attn_implementation": "eager",
        "experts_implementation": "eager",
    }
    rope = {"rope_type": "default", "rope_theta": model.rotary_base}
    dense = [layer for layer, has_experts in enumerate(model.expert_layers) if not has_experts]
    reference: torch.nn.Module
    if model.moe_router_score_function == "softmax":
        settings = Qwen3MoeConfig(**shape, num_experts=experts, mlp_only_layers=dense, rope_parameters=rope)
        reference = Qwen3MoeForCausalLM(settings)
    else:
        assert dense == list(range(len(dense))), "GLM's dense layers are the first ones"
        settings = Glm4MoeConfig(
            **shape,
            n_routed_experts=experts,
            n_shared_experts=(model.moe_shared_expert_intermediate_size or 0) // (model.moe_ffn_hidden_size or 1),
            first_k_dense_replace=len(dense),
            n_group=model.moe_router_num_groups or 1,
            topk_group=model.moe_router_group_topk or 1,
            routed_scaling_factor=model.moe_router_topk_scaling_factor,
            use_qk_norm=model.qk_layernorm,
            attention_bias=model.add_qkv_bias,
            rope_parameters=rope | {"partial_rotary_factor": 1.0},
        )
        reference = Glm4MoeForCausalLM(settings)
    wrong = reference.load_state_dict(_renamed(model, weights), strict=False)
    missing = {name for name in wrong.missing_keys if not name.endswith("e_score_correction_bias")}
    tied = set() if model.untie_embeddings_and_output_weights else {"lm_head.weight"}
    assert (missing, wrong.unexpected_keys) == (tied, [])
    return reference


def _renamed(model: ModelConfig, weights: Weights) -> dict[str, torch.Tensor]:
    found, others = {}, {}
    for name, array in weights.items():
        start, _, rest = name.removeprefix("decoder.layers.").partition(".")
        if rest in _IN_LAYER:
            found[f"model.layers.{start}.{_IN_LAYER[rest]}"] = torch.from_numpy(array)
        elif rest == "mlp.shared_experts.linear_fc1.weight":
            for key, part in zip(("gate", "up"), torch.from_numpy(array).chunk(2), strict=True):
                found[f"model.layers.{start}.mlp.shared_experts.{key}_proj.weight"] = part
        else:
            others[name] = array
    return found | hugging_face_weights(model, others)


def train_experts(reference: torch.nn.Module, config: Config, num_steps: int) -> list[dict[str, Any]]:
    """Loss and gradient norm (before clipping) of every step, and the biases behind the last one."""
    model, settings = config.model, config.optimizer
    gates = [module for name, module in reference.named_modules() if name.endswith("mlp.gate")]
    logits: dict[int, torch.Tensor] = {}
    for number, gate in enumerate(gates):
        gate.register_forward_hook(
            lambda gate, inputs, _output, number=number: logits.__setitem__(
                number, functional.linear(inputs[0].reshape(-1, model.hidden_size), gate.weight)
            )
        )
    matrices = [p for p in reference.parameters() if p.dim() > 1]
    vectors = [p for p in reference.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(settings.adam_beta1, settings.adam_beta2), eps=settings.adam_eps)
    found = []
    for step, data in enumerate(training_data(config, num_steps), start=1):
        (batch,) = data.micro_batches
        loss = (token_losses(reference, batch) * batch.loss_mask_BS).sum() / batch.loss_mask_BS.sum()
        samples = len(batch.tokens_BS)
        # Counts of this step's choices, before the biases move.
        counts = [_choices(each, gate, model).sum(0) for each, gate in zip(logits.values(), gates, strict=True)]
        router_loss = sum(_router_loss(each, model, samples) for each in logits.values())
        optimizer.zero_grad()
        (loss + router_loss).backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), settings.clip_grad)
        for group in optimizer.param_groups:
            group["lr"] = cosine_with_warmup(config, step)
        optimizer.step()
        if model.moe_router_enable_expert_bias:
            for gate, count in zip(gates, counts, strict=True):
                mean = count.double().mean()
                gate.e_score_correction_bias += model.moe_router_bias_update_rate * torch.sign(mean - count).float()
        found.append({"loss": float(loss.detach()), "grad_norm": float(norm)})
    return found


def _router_loss(logits_TE: torch.Tensor, model: ModelConfig, samples: int) -> torch.Tensor:
    """Auxiliary loss of each sample on its own, and z-loss, both as means over the tokens of the batch."""
    z_loss = torch.logsumexp(logits_TE, dim=-1).pow(2).mean()
    balance = torch.zeros(())
    for logits_LE in logits_TE.chunk(samples):  # one sample after the other
        probabilities = logits_LE.softmax(-1)
        chosen = torch.zeros_like(probabilities).scatter(1, logits_LE.topk(model.moe_router_topk).indices, 1.0)
        share_of_slots = chosen.mean(0) / model.moe_router_topk
        balance = balance + logits_LE.size(1) * (share_of_slots * probabilities.mean(0)).sum() / samples
    return model.moe_aux_loss_coeff * balance + model.moe_z_loss_coeff * z_loss


def _choices(logits_TE: torch.Tensor, gate: Any, model: ModelConfig) -> torch.Tensor:
    scores = logits_TE.detach().softmax(-1)
    if model.moe_router_score_function == "sigmoid":
        scores = logits_TE.detach().sigmoid() + gate.e_score_correction_bias
    if model.moe_router_num_groups:
        scores = _in_best_groups(scores, model)
    return torch.zeros_like(scores).scatter(1, scores.topk(model.moe_router_topk).indices, 1.0)


def _in_best_groups(scores: torch.Tensor, model: ModelConfig) -> torch.Tensor:
    assert model.moe_router_num_groups, "there are groups"
    grouped = scores.view(len(scores), model.moe_router_num_groups, -1)
    best = grouped.topk(2, dim=-1).values.sum(-1).topk(model.moe_router_group_topk or 1).indices
    allowed = torch.zeros(grouped.shape[:2]).scatter(1, best, 1.0).bool().unsqueeze(-1)
    return torch.where(allowed, grouped, -torch.inf).flatten(1)


def settings_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The small run with experts of which Hugging Face's models are the judge."""
    return {
        "model.num_moe_experts": 8,
        "model.moe_ffn_hidden_size": 48,
        "model.moe_router_topk": 2,
        "model.kv_channels": 16,
        "model.init_method_std": 0.1,
        "optimizer.learning_rate": 1e-3,
        **changes,
    }
