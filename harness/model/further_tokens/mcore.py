"""Modules that predict further tokens in training, with Megatron's names of parameters (multi-token prediction).

With h⁰ the stream behind the final norm, and emb the embedding (DeepSeek-V3, section 2.2; Megatron has the same order):

    hᵏᵢ = final_layernorm(transformer_layer(eh_proj[enorm(emb(tᵢ₊ₖ)); hnorm(hᵏ⁻¹ᵢ)]))

and the model's output layer predicts tᵢ₊ₖ₊₁ from it. Ours, because Megatron's versions average these losses
differently, scale them by themselves, and roll position ids, which our models do not have.

Shapes: S sequence of this rank, B micro batch, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from harness.config.model import ModelConfig
from harness.config.parallel import ParallelConfig
from harness.model import context
from harness.model.block.mcore import settle_layer
from harness.model.further_tokens.ends import share_over_ends
from harness.model.further_tokens.tally import LossTally, TalliesLosses
from harness.model.further_tokens.targets import targets_ahead
from harness.model.layer.mcore import join_layers
from harness.model.side_loss import with_loss
from harness.parallel import cpu
from harness.parallel.ranks import Place

cpu.prepare()

from megatron.core import tensor_parallel  # noqa: E402 (the CPU must be prepared first)
from megatron.core.models.common.embeddings.language_model_embedding import LanguageModelEmbedding  # noqa: E402
from megatron.core.transformer import TransformerConfig  # noqa: E402
from megatron.core.transformer.module import MegatronModule  # noqa: E402
from megatron.core.transformer.spec_utils import ModuleSpec, build_module  # noqa: E402
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Kinds:
    """Parts of a module: a layer like the last one of the model, and a kind of norm."""

    layer: ModuleSpec
    norm: type[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Inputs:
    """A micro-batch, as the trainer hands it to the model."""

    tokens_BS: torch.Tensor
    labels_BS: torch.Tensor
    loss_mask_BS: torch.Tensor
    packed: Any
    """PackedDocuments: documents that are kept apart; or None."""

    @staticmethod
    def of(arguments: Mapping[str, Any]) -> Inputs:
        """Return what Megatron's model hands to its last step."""
        return Inputs(
            tokens_BS=arguments["input_ids"],
            labels_BS=arguments["labels"],
            loss_mask_BS=arguments["loss_mask"],
            packed=arguments["packed_seq_params"],
        )


class FurtherToken(MegatronModule):  # type: ignore[misc]
    """One module."""

    def __init__(
        self,
        config: TransformerConfig,
        kinds: Kinds,
        *,
        number: int,
        parallel: ParallelConfig,
        virtual_stage: int | None,
        groups: Any,  # noqa: ANN401 (Megatron's)
    ) -> None:
        super().__init__(config=config)
        hidden = config.hidden_size
        norm = {"config": config, "hidden_size": hidden, "eps": config.layernorm_epsilon}
        self.enorm, self.hnorm = kinds.norm(**norm), kinds.norm(**norm)
        self.eh_proj = tensor_parallel.ColumnParallelLinear(
            2 * hidden,
            hidden,
            config=config,
            init_method=config.init_method,
            bias=False,
            gather_output=False,
            tp_group=groups.tp,
        )
        # The layer adds the number of those in front of this stage to its own, which counts from 1.
        first_here = config.num_layers - get_transformer_layer_offset(config, vp_stage=virtual_stage)
        self.transformer_layer = build_module(
            kinds.layer,
            config=config,
            layer_number=first_here + number + 1,
            vp_stage=virtual_stage,
            pg_collection=groups,
        )
        self.final_layernorm = kinds.norm(**norm)
        self._is_recomputed = parallel.recomputes_mtp_layers
        settle_layer(self.transformer_layer, parallel)
        join_layers([self.transformer_layer], self.final_layernorm, apart=(0,) if self._is_recomputed else ())

    @property
    def mtp_model_layer(self) -> nn.Module:
        """The layer, by the name under which Megatron's schedule looks for it from 0.19 on."""
        layer: nn.Module = self.transformer_layer
        return layer

    def forward(
        self,
        hidden_SBH: torch.Tensor,
        embedded_SBH: torch.Tensor,
        packed: Any,  # noqa: ANN401 (Megatron's PackedSeqParams)
    ) -> torch.Tensor:
        """Return the stream behind this module."""
        if not self._is_recomputed:
            # A node of its own, which adds up this module's gradients before the output layer's, as a recomputed one.
            return self._computed(hidden_SBH.view_as(hidden_SBH), embedded_SBH, packed)

        def computed(hidden_SBH: torch.Tensor, embedded_SBH: torch.Tensor) -> torch.Tensor:
            return self._computed(hidden_SBH, embedded_SBH, packed)

        again: torch.Tensor = tensor_parallel.checkpoint(computed, False, hidden_SBH, embedded_SBH)
        return again

    def _computed(self, hidden_SBH: torch.Tensor, embedded_SBH: torch.Tensor, packed: Any) -> torch.Tensor:  # noqa: ANN401
        both = torch.cat((self.enorm(embedded_SBH), self.hnorm(hidden_SBH)), dim=-1)
        mixed_SBH, _ = self.eh_proj(both)
        mixed_SBH = tensor_parallel.gather_from_tensor_model_parallel_region(mixed_SBH)
        if self.config.sequence_parallel:
            # A copy: what is scattered is a view, with which the layer would keep all of it.
            mixed_SBH = tensor_parallel.scatter_to_sequence_parallel_region(mixed_SBH).clone()
        stream_SBH, _ = self.transformer_layer(mixed_SBH, packed_seq_params=packed)
        normed_SBH: torch.Tensor = self.final_layernorm(stream_SBH)
        return normed_SBH


class FurtherTokens(MegatronModule, TalliesLosses):  # type: ignore[misc]
    """All modules of a model, one behind the other, on its last pipeline stage."""

    def __init__(self, chunk: Any, kinds: Kinds, model: ModelConfig, parallel: ParallelConfig) -> None:  # noqa: ANN401
        """Build the modules for a model chunk of Megatron's, which ends with them."""
        super().__init__(config=chunk.config)
        own = {"parallel": parallel, "virtual_stage": chunk.vp_stage, "groups": chunk.pg_collection}
        self.layers = nn.ModuleList(
            FurtherToken(chunk.config, kinds, number=number, **own) for number in range(model.num_mtp_modules)
        )
        self.tally = LossTally(model.num_mtp_modules)
        self._loss_weight = model.mtp_loss_scaling_factor / model.num_mtp_modules
        self._context = chunk.pg_collection.cp
        self._cp = Place(rank=self._context.rank(), size=self._context.size())

    def forward(
        self,
        hidden_SBH: torch.Tensor,
        inputs: Inputs,
        embed: Callable[[torch.Tensor], torch.Tensor],
        loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Return the stream that the output layer reads, with the losses of all modules attached.

        Args:
            hidden_SBH: The stream behind the final norm.
            inputs: The micro-batch.
            embed: Gives the embedding `[S, B, H]` of tokens `[B, S]`.
            loss_of: Gives the loss `[B, S]` of labels `[B, S]` and a stream `[S, B, H]`.
        """
        stream_SBH, losses = hidden_SBH, []
        starts = None if inputs.packed is None else inputs.packed.documents.starts
        whole = self._whole(inputs)
        for number, module in enumerate(self.layers):
            targets = targets_ahead(whole.tokens_BS, whole.labels_BS, whole.loss_mask_BS, number + 1, starts)
            targets = targets.part_of(self._cp)
            stream_SBH = module(stream_SBH, embed(targets.tokens_BS), inputs.packed)
            loss_BS = loss_of(targets.labels_BS, stream_SBH)
            self.tally.add(number, loss_BS.detach(), targets.loss_mask_BS)
            losses.append((loss_BS * targets.loss_mask_BS).sum())
        return with_loss(hidden_SBH, self._loss_weight * self.tally.loss_weight * torch.stack(losses).sum())

    def _whole(self, inputs: Inputs) -> Inputs:
        """Return whole samples, of which this rank may have two slices."""
        if self._cp.size == 1:
            return inputs
        whole_of = partial(context.whole_of, group=self._context)
        return replace(
            inputs,
            tokens_BS=whole_of(inputs.tokens_BS),
            labels_BS=whole_of(inputs.labels_BS),
            loss_mask_BS=whole_of(inputs.loss_mask_BS),
        )

    def sharded_state_dict(
        self,
        prefix: str = "",
        sharded_offsets: tuple[tuple[int, int, int], ...] = (),
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the parameters of all modules, which Megatron does not look for in a list."""
        sharded: dict[str, Any] = {}
        modules: list[Any] = list(self.layers)
        for number, module in enumerate(modules):
            sharded |= module.sharded_state_dict(f"{prefix}layers.{number}.", sharded_offsets, metadata)
        return sharded


def embedding_behind_layers(chunk: Any) -> Any:  # noqa: ANN401 (Megatron's)
    """Return the embedding that the modules of a built model chunk read.

    Where the chunk does not begin with one, it is a replica: a tied one has the weights of the output layer, and is no
    part of the chunk; any other becomes one.
    """
    if chunk.pre_process:
        return chunk.embedding
    embedding = LanguageModelEmbedding(
        config=chunk.config,
        vocab_size=chunk.vocab_size,
        max_sequence_length=chunk.max_sequence_length,
        position_embedding_type="none",
        tp_group=chunk.pg_collection.tp,
    )
    if chunk.share_embeddings_and_output_weights:
        weight = embedding.word_embeddings.weight = chunk.output_layer.weight
        # Of a product that adds to the sum by itself, autograd gets a gradient to which the lookup's is added.
        weight.zero_out_wgrad = True
    else:
        chunk.embedding = embedding
        embedding.word_embeddings.weight.shared = True  # norms count it once
        share_over_ends(embedding.word_embeddings.weight)
    return embedding
