"""Builds the model from megatron-core: transformer configuration, layer specification, data-parallel wrapping."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from harness.config.model import ModelConfig
from harness.config.parallel import CHEAP_MODULES, ParallelConfig
from harness.config.pipeline_layout import LAYER_NAMES
from harness.config.schema import Config
from harness.model import initial_weights, weight_gradient
from harness.model.attention.bounds import Documents
from harness.model.block.mcore import block_spec, exchange_of, last_layer, settle_layers
from harness.model.cross_entropy import VocabularyShard, cross_entropy
from harness.model.experts.mcore import expert_settings
from harness.model.further_tokens.ends import share_over_ends
from harness.model.further_tokens.mcore import FurtherTokens, Inputs, Kinds, embedding_behind_layers
from harness.model.kernels.launch import require_compiler
from harness.model.layer.mcore import PackedDocuments
from harness.model.learned_positions import positions_of
from harness.model.logit_cap import cap_output
from harness.model.rotary import Rotations
from harness.parallel import cpu
from harness.parallel.mcore import megatron_sizes
from harness.parallel.megatron_changes import replace
from harness.parallel.ranks import Ranks
from harness.parameters.names import EMBEDDING
from harness.parameters.table import find_parameter
from harness.plan.plan import Plan

cpu.prepare()

from megatron.core import parallel_state  # noqa: E402 (the CPU must be prepared first)
from megatron.core.distributed import (  # noqa: E402
    DistributedDataParallel,
    DistributedDataParallelConfig,
)
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.tensor_parallel import layers  # noqa: E402
from megatron.core.transformer import TransformerConfig  # noqa: E402
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset  # noqa: E402

_ACTIVATIONS = {
    "swiglu": functional.silu,
    **dict.fromkeys(("geglu", "geglu_tanh", "gelu", "gelu_tanh"), functional.gelu),
    "squared_relu": functional.relu,
    "clamped_swiglu": functional.silu,
}
"""Functions that Megatron is told of, out of the few that it knows here; `harness.model.activation` computes ours."""
_MEGATRON_EXCHANGES = {"p2p": "p2p", "allgather": "all_gather", "a2a": "a2a"}
_RECOMPUTED_BY_MEGATRON = frozenset(("core_attn", "shared_experts"))


class LanguageModel(GPTModel):  # type: ignore[misc]
    """Megatron's GPT model with a cross-entropy over the true vocabulary, and attention within documents."""

    def __init__(
        self,
        *,
        model: ModelConfig,
        ranks: Ranks,
        rotations: Rotations,
        kinds_in_mtp: Kinds | None,
        parallel: ParallelConfig,
        **arguments: Any,  # noqa: ANN401 (Megatron's)
    ) -> None:
        super().__init__(**arguments)
        columns = model.padded_vocab_size // ranks.tp.size
        first = ranks.tp.rank * columns
        self.rotations = rotations
        self._cp = ranks.cp
        if model.position_embedding_type == "learned_absolute" and self.pre_process:
            self.embedding.position_embeddings.to(self.config.params_dtype)  # torch's own module, made in fp32
        self._learns_positions = model.position_embedding_type == "learned_absolute"
        if model.scale_embedding and self.pre_process:
            self.embedding.register_forward_hook(partial(_scaled, scale=math.sqrt(model.hidden_size)))
        self._further: tuple[FurtherTokens, Any] | None = None
        if kinds_in_mtp is not None and self.post_process:
            self._add_mtp_modules(model, kinds_in_mtp, parallel)
        self._is_at_both_ends = kinds_in_mtp is not None and not self.share_embeddings_and_output_weights
        self._is_at_both_ends &= self.pre_process != self.post_process
        if self.untied_replica is not None:
            share_over_ends(self.untied_replica)
        if model.final_logit_softcapping is not None and self.post_process:
            cap_output(self.output_layer, model.final_logit_softcapping)
        self._z_loss_coefficient = model.z_loss_coefficient
        self._shard = VocabularyShard(
            first_id=first,
            num_true=min(columns, model.vocab_size - first),
            group=self.pg_collection.tp if ranks.tp.size > 1 else None,
        )

    def _add_mtp_modules(self, model: ModelConfig, kinds: Kinds, parallel: ParallelConfig) -> None:
        """Add the modules that predict further tokens. A stage without an embedding gets one, which they read."""
        self.mtp = FurtherTokens(self, kinds, model, parallel)
        embedding = embedding_behind_layers(self)
        if model.scale_embedding and not self.pre_process:
            embedding.register_forward_hook(partial(_scaled, scale=math.sqrt(model.hidden_size)))
        self._further = (self.mtp, embedding)  # in a tuple, because a tied one is no part of the model

    def parameters_in_layers(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of all layers, those in modules among them."""
        yield from self.decoder.layers.parameters()
        modules: list[Any] = [] if self._further is None else list(self.mtp.layers)
        for module in modules:
            yield from module.transformer_layer.parameters()

    @property
    def untied_replica(self) -> nn.Parameter | None:
        """The embedding, where the other end of the pipeline has it too, and it is not tied."""
        weight: nn.Parameter | None = self.embedding.word_embeddings.weight if self._is_at_both_ends else None
        return weight

    def forward(
        self,
        input_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        documents: Documents | None,
        **arguments: Any,  # noqa: ANN401 (Megatron's)
    ) -> torch.Tensor:
        """Run Megatron's forward pass, with documents in place of an attention mask.

        No token attends across a document border. Megatron hands the documents to every layer, also to one that is
        computed again. Learned positions are counted here, unless they are given.
        """
        packed = None
        if self._learns_positions and input_ids is not None and position_ids is None:
            position_ids = positions_of(input_ids, documents, self._cp)
        if documents is not None:
            packed = PackedDocuments(documents)
        output: torch.Tensor = super().forward(input_ids, position_ids, None, packed_seq_params=packed, **arguments)
        return output

    def _postprocess(self, hidden_states: torch.Tensor, **arguments: Any) -> torch.Tensor:  # noqa: ANN401 (Megatron's)
        """Attach the losses of further tokens in training; then predict the next ones as Megatron does."""
        is_trained = arguments["labels"] is not None and self.training and torch.is_grad_enabled()
        if self._further is not None and is_trained:
            modules, embedding = self._further
            inputs = Inputs.of(arguments)
            hidden_states = modules(hidden_states, inputs, partial(embedding, position_ids=None), self._further_loss)
        output: torch.Tensor = super()._postprocess(hidden_states=hidden_states, **arguments)
        return output

    def _further_loss(self, labels_BS: torch.Tensor, hidden_SBH: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy per token of the output layer on a module's stream, without z-loss."""
        shared = self.shared_embedding_or_output_weight() if self.share_embeddings_and_output_weights else None
        logits_SBV, _ = self.output_layer(hidden_SBH, weight=shared)
        return cross_entropy(logits_SBV, labels_BS.T.contiguous(), self._shard).T

    def sharded_state_dict(self, prefix: str = "", *arguments: Any, **keywords: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return Megatron's, in which an embedding on the last stage is a replica of that on the first."""
        sharded: dict[str, Any] = super().sharded_state_dict(prefix, *arguments, **keywords)
        if self._is_at_both_ends and self.post_process:
            embedding = sharded[f"{prefix}{EMBEDDING}"]
            embedding.replica_id = (1, *embedding.replica_id[1:])
        return sharded

    def compute_language_model_loss(self, labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy per token `[B, S]` from labels `[B, S]` and this rank's logits `[S, B, V]`."""
        loss_SB = cross_entropy(logits, labels.T.contiguous(), self._shard, self._z_loss_coefficient)
        return loss_SB.T.contiguous()


def _scaled(_embedding: nn.Module, _inputs: object, looked_up: torch.Tensor, *, scale: float) -> torch.Tensor:
    """Multiply by a number that is rounded to the format of the numbers first, as transformers does it."""
    return looked_up * torch.tensor(scale, dtype=looked_up.dtype).item()


def build_model(config: Config, plan: Plan, ranks: Ranks, device: torch.device) -> list[DistributedDataParallel]:
    """Return this rank's model chunks with initial weights, wrapped for data parallelism.

    There is one chunk, or one per virtual stage. Every rank must call it.
    """
    require_compiler(device)
    transformer = transformer_config(config, plan, device)
    chunks = []
    for virtual_stage in range(plan.layout.virtual_pipeline):
        stage = virtual_stage if plan.layout.virtual_pipeline > 1 else None
        chunk = _chunk(config, transformer, ranks, stage, device).to(device)
        first_layer = get_transformer_layer_offset(transformer, vp_stage=stage)
        initial_weights.fill(
            chunk.named_parameters(), config.model, seed=config.run.seed, first_layer=first_layer, ranks=ranks
        )
        _mark(chunk, config.model, ranks, first_layer)
        chunks.append(chunk)
    wrapped = _wrap(chunks, transformer, overlap=_overlaps(ranks, device))
    again = chunks if _keeps_recipes(config.parallel) else []
    weight_gradient.tell(parameter for chunk in again for parameter in chunk.parameters_in_layers())
    return wrapped


def transformer_config(config: Config, plan: Plan, device: torch.device) -> TransformerConfig:
    """Return Megatron's configuration of the model and its layout."""
    model, parallel = config.model, config.parallel
    on_gpu = device.type != "cpu"  # or on the meta device, which stands for one
    dtype = torch.bfloat16 if config.precision.dtype == "bf16" else torch.float32
    transformer = TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.query_groups,
        kv_channels=model.head_size,
        ffn_hidden_size=model.ffn_hidden_size,
        normalization=model.normalization,
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=model.gated,
        activation_func=_ACTIVATIONS[model.activation],
        # Set below: Megatron refuses it where ranks share each expert, whose biases are ours.
        add_bias_linear=False,
        add_qkv_bias=model.add_qkv_bias,
        layernorm_zero_centered_gamma=model.layernorm_zero_centered_gamma,
        # With it Megatron adds up the gradients of such norms over tensor-parallel ranks, as if all had the same one.
        qk_layernorm=model.norms_each_head,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        sequence_parallel=parallel.sequence_parallel,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        fp8=config.precision.fp8,
        fp8_recipe=config.precision.fp8_recipe,
        # Gradients are sums over tokens; the step divides them by the exact number of tokens of the global batch.
        calculate_per_token_loss=True,
        # Weights are filled by harness.model.initial_weights.
        perform_initialization=False,
        use_cpu_initialization=not on_gpu,
        gradient_accumulation_fusion=_adds_weight_gradients_in_products(parallel, device),
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        # Without dropout the residual is one addition: nothing to fuse.
        bias_dropout_fusion=False,
        # The name stands for "the layer specification brings an activation": ours, see harness.model.activation.
        use_te_activation_func=True,
        **expert_settings(model),
        **megatron_sizes(plan.layout),
        cp_comm_type=_MEGATRON_EXCHANGES[exchange_of(config, device)],
        **_communication(interleaved=plan.layout.virtual_pipeline > 1, on_gpu=on_gpu),
        **_stages(parallel),
        **_recompute(parallel),
    )
    transformer.add_bias_linear = model.add_bias_linear
    return transformer


def _keeps_recipes(parallel: ParallelConfig) -> bool:
    """Return whether autograd keeps recipes of tensors in the place of some of them (`harness.model.recompute`)."""
    return bool(parallel.recomputed_modules & CHEAP_MODULES)


def _adds_weight_gradients_in_products(parallel: ParallelConfig, device: torch.device) -> bool:
    """Return whether Megatron adds weight gradients within products, and give it the product if apex does not.

    apex's does not tell parameters what is needed where autograd keeps recipes (`weight_gradient.tell`).
    """
    needs_own = _keeps_recipes(parallel)
    if (needs_own or not layers._grad_accum_fusion_available) and weight_gradient.product_can_add(device):
        replace(layers, "fused_weight_gradient_mlp_cuda", weight_gradient)
        replace(layers, "_grad_accum_fusion_available", True)
    if device.type == "cpu" or not layers._grad_accum_fusion_available:
        return False
    return not needs_own or layers.fused_weight_gradient_mlp_cuda is weight_gradient


def _communication(*, interleaved: bool, on_gpu: bool) -> dict[str, Any]:
    """Return the settings for sends between pipeline stages.

    Interleaved stages of two pipeline ranks send both ways between one pair, where batched sends would be mixed up.
    Over gloo a send reads its tensor later, so it is waited for and its tensor is kept.
    """
    return {
        "overlap_p2p_comm": on_gpu and interleaved,
        "batch_p2p_comm": not interleaved,
        "batch_p2p_sync": False,
        "deallocate_pipeline_outputs": on_gpu,
    }


def _stages(parallel: ParallelConfig) -> dict[str, Any]:
    """Return Megatron's settings of the layers of every stage; even stages need none."""
    layout = parallel.pipeline_model_parallel_layout
    names = None if layout is None else [[LAYER_NAMES[letter] for letter in stage] for stage in layout]
    return {
        "pipeline_model_parallel_layout": names,
        "num_layers_in_first_pipeline_stage": parallel.num_layers_in_first_pipeline_stage,
        "num_layers_in_last_pipeline_stage": parallel.num_layers_in_last_pipeline_stage,
        "account_for_embedding_in_pipeline_split": parallel.account_for_embedding_in_pipeline_split,
        "account_for_loss_in_pipeline_split": parallel.account_for_loss_in_pipeline_split,
    }


def _recompute(parallel: ParallelConfig) -> dict[str, Any]:
    """Return Megatron's settings of what it recomputes itself; our layers do the rest (see `settle_layers`)."""
    if parallel.recomputation == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": parallel.recompute_method or "uniform",
            "recompute_num_layers": parallel.recompute_num_layers or 1,
        }
    modules = sorted(parallel.recomputed_modules & _RECOMPUTED_BY_MEGATRON)
    return {"recompute_granularity": "selective", "recompute_modules": modules} if modules else {}


def _chunk(
    config: Config, transformer: TransformerConfig, ranks: Ranks, virtual_stage: int | None, device: torch.device
) -> LanguageModel:
    model = config.model
    rotations = Rotations(model, ranks.cp)
    kinds = None
    if model.num_mtp_modules:
        layer, norm = last_layer(config, ranks, rotations, device)
        kinds = Kinds(layer=layer, norm=norm)
    chunk = LanguageModel(
        model=model,
        ranks=ranks,
        rotations=rotations,
        kinds_in_mtp=kinds,
        parallel=config.parallel,
        config=transformer,
        transformer_layer_spec=block_spec(config, transformer, ranks, rotations, virtual_stage, device),
        vocab_size=model.padded_vocab_size,
        max_sequence_length=model.max_position_embeddings or max(phase.seq_length for phase in config.phases),
        pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=virtual_stage),
        post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=virtual_stage),
        parallel_output=True,
        share_embeddings_and_output_weights=not model.untie_embeddings_and_output_weights,
        # The rotation is that of our self-attention.
        position_embedding_type="none" if model.position_embedding_type == "rope" else "learned_absolute",
        vp_stage=virtual_stage,
    )
    settle_layers(chunk.decoder, config.parallel)
    return chunk


def _mark(chunk: LanguageModel, model: ModelConfig, ranks: Ranks, first_layer: int) -> None:
    """Mark every tensor with the facts of the table that Megatron and the optimizer need.

    These are its name in the whole model, whether weight decay applies, and how tensor-parallel ranks cut it, so that
    norms count each number once. Megatron writes the last while it initializes weights itself, which is switched off.
    """
    for name, tensor in chunk.named_parameters():
        tensor.whole_name = initial_weights.whole_name(name, first_layer, model)
        parameter = find_parameter(tensor.whole_name, model)
        tensor.has_no_weight_decay = not parameter.decays
        # Of experts, every rank has other ones, or other numbers of them.
        is_shared = parameter.num_experts is not None or (parameter.cut is not None and ranks.tp.size > 1)
        if is_shared and parameter.cut is not None and not hasattr(tensor, "tensor_model_parallel"):
            layers.set_tensor_model_parallel_attributes(tensor, is_parallel=True, dim=parameter.cut.dim, stride=1)
    for name, tensor in chunk.named_buffers():
        tensor.whole_name = initial_weights.whole_name(name, first_layer, model)


def _overlaps(ranks: Ranks, device: torch.device) -> bool:
    """Return whether gradients are reduced and parameters gathered during the computation.

    This is done if several GPUs share them.
    """
    return device.type != "cpu" and ranks.dp.size * ranks.cp.size > 1


def _wrap(
    chunks: list[LanguageModel], transformer: TransformerConfig, *, overlap: bool
) -> list[DistributedDataParallel]:
    """Wrap the chunks in Megatron's data parallelism, and with overlap set what its schedules need.

    With overlap, the parameters of other ranks are stale between an update and the forward pass that gathers them. A
    reader of parameters in between, such as a checkpoint, must gather them first.
    """
    several = len(chunks) > 1
    wrapped = [
        DistributedDataParallel(
            config=transformer,
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                use_distributed_optimizer=True,
                overlap_grad_reduce=overlap,
                overlap_param_gather=overlap,
                # Interleaved stages: the schedule gathers each chunk ahead of its turn, its layers do not.
                align_param_gather=overlap and several,
            ),
            module=chunk,
            disable_bucketing=index > 0,
        )
        for index, chunk in enumerate(chunks)
    ]
    if overlap:
        # Only the last micro-batch of a step reduces; the others add to the gradient buffers.
        no_sync = [chunk.no_sync for chunk in wrapped]
        transformer.no_sync_func = no_sync if several else no_sync[0]
        if several:
            transformer.param_sync_func = [cast(Any, chunk.start_param_sync) for chunk in wrapped]
    return wrapped
