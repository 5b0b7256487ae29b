"""The same model in Hugging Face's code, with the weights of ours, and a plain loop that trains it.

Only the numbers come from the configuration: groups, clipping, schedule and averaging are written out here again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from harness.channels.channels import open_channel
from harness.config.model import ModelConfig
from harness.config.schema import Config, OptimizerConfig
from harness.data.batch import Batch
from harness.data.order.cursor import Cursor
from harness.data.order.recipe import recipe_for
from harness.data.stream import BatchShape, StepData, TrainingStream
from harness.plan.plan import make_plan

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

Weights = Mapping[str, npt.NDArray[np.float32]]


def hugging_face_model(model: ModelConfig, weights: Weights) -> torch.nn.Module:
    """Llama, or Qwen2 where queries, keys and values have a bias, or Qwen3 where queries and keys are normalized."""
    shape = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.query_groups,
        "head_dim": model.head_size,
        "rms_norm_eps": model.norm_epsilon,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
        "tie_word_embeddings": not model.untie_embeddings_and_output_weights,
        "attn_implementation": "eager",
    }
    config_class, model_class = LlamaConfig, LlamaForCausalLM
    if model.add_qkv_bias:
        config_class, model_class = Qwen2Config, Qwen2ForCausalLM
    elif model.qk_layernorm:
        config_class, model_class = Qwen3Config, Qwen3ForCausalLM
    reference = model_class(config_class(**shape))
    wrong = reference.load_state_dict(hugging_face_weights(model, weights), strict=False)
    tied = set() if model.untie_embeddings_and_output_weights else {"lm_head.weight"}
    assert (set(wrong.missing_keys), wrong.unexpected_keys) == (tied, [])
    return reference


def hugging_face_weights(model: ModelConfig, weights: Weights) -> dict[str, torch.Tensor]:
    """Megatron's whole parameters under Hugging Face's names; padded rows of the vocabulary are left out."""
    found = {}
    for name, array in weights.items():
        tensor = torch.from_numpy(array)
        if name.startswith("decoder.layers."):
            number, rest = name.removeprefix("decoder.layers.").split(".", 1)
            found |= {f"model.layers.{number}.{key}": part for key, part in _layer_parts(rest, tensor, model).items()}
        elif name == "decoder.final_layernorm.weight":
            found["model.norm.weight"] = tensor
        elif name == "embedding.word_embeddings.weight":
            found["model.embed_tokens.weight"] = tensor[: model.vocab_size]
        else:
            assert name == "output_layer.weight", f"no Hugging Face name for {name}"
            found["lm_head.weight"] = tensor[: model.vocab_size]
    return found


_SAME = {
    "input_layernorm.weight": "input_layernorm.weight",
    "pre_mlp_layernorm.weight": "post_attention_layernorm.weight",
    "self_attention.linear_proj.weight": "self_attn.o_proj.weight",
    "self_attention.q_layernorm.weight": "self_attn.q_norm.weight",
    "self_attention.k_layernorm.weight": "self_attn.k_norm.weight",
    "mlp.linear_fc2.weight": "mlp.down_proj.weight",
}


def _layer_parts(name: str, tensor: torch.Tensor, model: ModelConfig) -> dict[str, torch.Tensor]:
    if name in _SAME:
        return {_SAME[name]: tensor}
    if name == "mlp.linear_fc1.weight":  # the gate, then the up projection
        gate, up = tensor.chunk(2)
        return {"mlp.gate_proj.weight": gate, "mlp.up_proj.weight": up}
    kind = name.removeprefix("self_attention.linear_qkv.")
    assert kind in ("weight", "bias"), f"no Hugging Face name for {name}"
    # Group by group: the queries of the group, its key, its value.
    queries = model.num_attention_heads // model.query_groups
    grouped = tensor.view(model.query_groups, queries + 2, model.head_size, *tensor.shape[1:])
    parts = {"q_proj": grouped[:, :queries], "k_proj": grouped[:, queries], "v_proj": grouped[:, queries + 1]}
    return {f"self_attn.{key}.{kind}": part.reshape(-1, *tensor.shape[1:]) for key, part in parts.items()}


def training_data(config: Config, num_steps: int) -> list[StepData]:
    """The samples of the first steps, each step as one micro-batch."""
    phase = make_plan(config, 1).phases[0]
    recipe = recipe_for(config, [phase])
    channels = [open_channel(name, config.data.channels[name]) for name in recipe.shares]
    size = phase.global_batch_size
    shape = BatchShape(global_batch_size=size, micro_batch_size=size, dp_rank=0, dp_size=1)
    steps, cursor = [], Cursor()
    with closing(TrainingStream(channels, recipe, shape)) as stream:
        for _ in range(num_steps):
            steps.append(stream.step(cursor))
            cursor = steps[-1].next_cursor
    return steps


def token_losses(reference: torch.nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of every token `[B, S]`, attending across document borders."""
    logits = reference(input_ids=batch.tokens_BS, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1), batch.labels_BS.flatten(), reduction="none").view_as(
        batch.tokens_BS
    )


def train_reference(reference: torch.nn.Module, config: Config, num_steps: int) -> list[dict[str, Any]]:
    """Loss and gradient norm (before clipping) of every step of a plain training loop."""
    settings = config.optimizer
    optimizers = _optimizers(reference, settings)
    found = []
    for step, data in enumerate(training_data(config, num_steps), start=1):
        (batch,) = data.micro_batches
        loss = (token_losses(reference, batch) * batch.loss_mask_BS).sum() / batch.loss_mask_BS.sum()
        reference.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), settings.clip_grad)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = cosine_with_warmup(config, step)
            optimizer.step()
        found.append({"loss": float(loss.detach()), "grad_norm": float(norm)})
    return found


def _optimizers(reference: torch.nn.Module, settings: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """AdamW; or torch's Muon for the matrices of the layers, and AdamW for the rest."""
    named = list(reference.named_parameters())
    hidden = [p for name, p in named if p.dim() > 1 and ".layers." in name and settings.kind == "muon"]
    others = [p for name, p in named if all(p is not each for each in hidden)]
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [
                {"params": [p for p in others if p.dim() > 1], "weight_decay": settings.weight_decay},
                {"params": [p for p in others if p.dim() == 1], "weight_decay": 0.0},
            ],
            betas=(settings.adam_beta1, settings.adam_beta2),
            eps=settings.adam_eps,
        )
    ]
    if hidden:
        muon = torch.optim.Muon(hidden, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw")
        found.append(muon)
    return found


def cosine_with_warmup(config: Config, step: int) -> float:
    (phase,) = config.phases
    assert phase.train_steps is not None, "the small run counts in steps"
    peak, schedule = config.optimizer.learning_rate, phase.schedule
    if step <= schedule.warmup_steps:
        return peak * step / schedule.warmup_steps
    progress = (step - schedule.warmup_steps) / (phase.train_steps - schedule.warmup_steps)
    lowest = peak * schedule.min_learning_rate_share
    return lowest + (peak - lowest) * (1 + math.cos(math.pi * progress)) / 2
