"""Modules that predict further tokens, written out in plain torch around Hugging Face's model, and trained."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from reference import Weights, cosine_with_warmup, hugging_face_model, hugging_face_weights, training_data
from torch import nn
from torch.nn import functional

from harness.config.model import ModelConfig
from harness.config.schema import Config
from harness.data.batch import Batch

_LAYER = "transformer_layer."


class PlainModel(nn.Module):
    """Llama, and behind it modules whose layers are further layers of a second, longer Llama."""

    def __init__(self, model: ModelConfig, weights: Weights) -> None:
        super().__init__()
        modules = {name: array for name, array in weights.items() if name.startswith("mtp.")}
        self.main = hugging_face_model(model, {n: array for n, array in weights.items() if n not in modules})
        self.layers, self.own = nn.ModuleList(), nn.ModuleList()
        for number in range(model.mtp_num_layers or 0):
            own = {
                name.removeprefix(f"mtp.layers.{number}."): array
                for name, array in modules.items()
                if name.startswith(f"mtp.layers.{number}.")
            }
            of_layer = {
                f"decoder.layers.0.{name.removeprefix(_LAYER)}": array
                for name, array in own.items()
                if name.startswith(_LAYER)
            }
            layer = type(self.main.model.layers[0])(self.main.config, 0)
            layer.load_state_dict(
                {
                    name.removeprefix("model.layers.0."): tensor
                    for name, tensor in hugging_face_weights(model, of_layer).items()
                }
            )
            self.layers.append(layer)
            self.own.append(
                nn.ParameterDict(
                    {
                        name.removesuffix(".weight"): nn.Parameter(torch.from_numpy(array))
                        for name, array in own.items()
                        if not name.startswith(_LAYER)
                    }
                )
            )
        self._epsilon = model.norm_epsilon

    def losses(self, tokens_BS: torch.Tensor, labels_BS: torch.Tensor) -> list[torch.Tensor]:
        """Cross-entropy of the next token `[B, S]`, and of each module `[B, S - k]` that has a token."""
        inner, length = self.main.model, tokens_BS.size(1)
        stream = inner(input_ids=tokens_BS, use_cache=False).last_hidden_state
        found = [self._loss(stream, labels_BS)]
        for ahead, (layer, own) in enumerate(zip(self.layers, self.own, strict=True), start=1):
            # One token shorter with each module: what stands further behind does not exist here at all.
            if length <= ahead:
                break
            stream = stream[:, : length - ahead]
            both = (
                self._norm(inner.embed_tokens(tokens_BS[:, ahead:]), own["enorm"]),
                self._norm(stream, own["hnorm"]),
            )
            mixed = torch.cat(both, dim=-1) @ own["eh_proj"].T
            size = length - ahead
            positions = torch.arange(size)[None]
            mask = torch.full((size, size), float("-inf")).triu(1)[None, None]
            rotation = inner.rotary_emb(mixed, positions)
            output = layer(mixed, attention_mask=mask, position_ids=positions, position_embeddings=rotation)
            output = output[0] if isinstance(output, tuple) else output
            stream = self._norm(output, own["final_layernorm"])
            found.append(self._loss(stream, labels_BS[:, ahead:]))
        return found

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._epsilon)

    def _loss(self, stream: torch.Tensor, labels_BS: torch.Tensor) -> torch.Tensor:
        logits = self.main.lm_head(stream)
        return functional.cross_entropy(logits.flatten(0, 1), labels_BS.flatten(), reduction="none").view_as(labels_BS)


def train_modules(plain: PlainModel, config: Config, num_steps: int) -> list[dict[str, Any]]:
    """Losses and gradient norm of every step: the further losses over the tokens of the main one, by their weight."""
    settings, model = config.optimizer, config.model
    matrices = [p for p in plain.parameters() if p.dim() > 1]
    vectors = [p for p in plain.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
    )
    found = []
    for step, data in enumerate(training_data(config, num_steps), start=1):
        (batch,) = data.micro_batches
        sums, counts = loss_sums(plain, batch, 1 + len(plain.layers))
        total = sums[0] + model.mtp_loss_scaling_factor / len(plain.layers) * sum(sums[1:])
        optimizer.zero_grad()
        (total / counts[0]).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), settings.clip_grad)
        for group in optimizer.param_groups:
            group["lr"] = cosine_with_warmup(config, step)
        optimizer.step()
        means = [float(loss.detach() / count) for loss, count in zip(sums, counts, strict=True)]
        found.append({"losses": means, "grad_norm": float(norm)})
    return found


def loss_sums(plain: PlainModel, batch: Batch, num_losses: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Summed losses and counted tokens of the next token and of each module; documents that are apart one by one."""
    sums, counts = ([torch.zeros(()) for _ in range(num_losses)] for _ in range(2))
    for tokens, labels, mask in _pieces(batch):
        for ahead, loss in enumerate(plain.losses(tokens, labels)):
            sums[ahead] = sums[ahead] + (loss * mask[:, ahead:]).sum()
            counts[ahead] = counts[ahead] + mask[:, ahead:].sum()
    return sums, counts


def _pieces(batch: Batch) -> Iterator[list[torch.Tensor]]:
    """The samples together, or each document alone: tokens, labels, mask."""
    whole = (batch.tokens_BS, batch.labels_BS, batch.loss_mask_BS)
    if batch.document_starts is None:
        yield list(whole)
        return
    for start, stop in pairwise(batch.document_starts.tolist()):
        yield [tensor.flatten()[start:stop][None] for tensor in whole]
