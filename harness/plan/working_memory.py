"""Memory that a step takes beside the model's state: activations, logits, and what backward makes for a moment.

Attention is flash attention: no S x S matrix. Per token and layer a rank keeps for backward (h hidden, a heads and g
groups of size d, f MLP width):

    4*h                  inputs of both norms and of the projections behind them; with norms behind, of the projections
                         and of both norms (6*h with norms around); split over tensor-parallel ranks only with sequence
                         parallelism
    (2*a + 2*g)*d        rotated queries and keys, values, and the attention's output; always split, as is the rest
    3*f                  gate, up projection and activation (2*f if not gated)
    a, and 2             fp32 numbers: the sum of each row of the softmax, and the root of each norm (LayerNorm: 4)

A layer with experts keeps other things in the place of the MLP's: see `harness.plan.expert_memory`. Latent attention
has heads of other sizes, and keeps latents: see `harness.plan.latent_memory`.

Selective recomputation keeps less, by its modules: `layernorm` not the inputs of the projections behind norms (2*h;
with norms behind they are no outputs of norms), `mlp_act` not that behind the activation (f), `mlp` nothing of the MLP
(3*f), `core_attn` not the sums of the softmax (a). Full recomputation keeps the input of each unit of layers.

A module that predicts further tokens keeps what a layer keeps, 5*h beside it for its norms and its projection, and
logits; if it is recomputed as a whole it keeps 2*h and logits.

The peak is at one of four moments of the backward pass of a micro-batch: at the output layer, or at the second
projection, the activation or the first projection of the MLP of the last layer, or of the last module. The gradient of
a weight is whole, in the format of the weights, before it is added to the fp32 gradients. `harness.trace` measures the
same on the real program.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from harness.config.model import ModelConfig
from harness.config.schema import Config, PhaseConfig
from harness.parameters.names import EMBEDDING, OUTPUT, in_layer
from harness.parameters.table import find_parameter, output_name, parameter_table
from harness.plan.expert_memory import ExpertLayer
from harness.plan.latent_memory import num_norms_of_latents, numbers_beside_projections, numbers_of_latents
from harness.plan.layouts import Layout
from harness.plan.stages import Stages, layers_of_rank, layers_per_stage

_FP32_BYTES = 4
_NUM_REMEMBERED = 16
"""Models whose sum is kept: every stage of every phase asks for it."""
_RECEIVED_AHEAD = 3
"""Tensors between stages that an interleaved stage has at the peak and does not need yet: 3 to 10 were traced."""
_FIRST_OF_MLP = "mlp.linear_fc1.weight"
_SECOND_OF_MLP = "mlp.linear_fc2.weight"


@dataclass(frozen=True, kw_only=True)
class WorkingMemory:
    """Bytes at one moment of a step."""

    activations_bytes: int
    logits_bytes: int
    temporary_bytes: int

    @property
    def total_bytes(self) -> int:
        """All parts."""
        return self.activations_bytes + self.logits_bytes + self.temporary_bytes


def working_memory(config: Config, layout: Layout, rank: int) -> WorkingMemory:
    """Return the working memory of a pipeline rank at its peak, in the phase that needs most."""
    moments = (moment for phase in config.phases for moment in _Step(config, layout, rank, phase).moments())
    return max(moments, key=lambda moment: moment.total_bytes)


def layers_in_flight(layout: Layout, stages: Stages, rank: int, num_microbatches: int) -> int:
    """Return the most layers x micro-batches whose activations a pipeline rank keeps at once."""
    return max(_kept_before_backward([sizes[rank] for sizes in stages], layout, rank, num_microbatches))


def _kept_before_backward(
    of_chunks: Sequence[int], layout: Layout, rank: int, num_microbatches: int
) -> tuple[int, ...]:
    """Return the most that a pipeline rank keeps when backward of each model chunk begins.

    `of_chunks` is what it keeps of a micro-batch in each chunk. 1F1B: rank r has run `pipeline - r` micro-batches
    ahead. Interleaved: it has run `2 * (pipeline - r - 1) + (chunks - 1) * pipeline + 1` chunks ahead (Megatron-Core:
    `get_pp_rank_microbatches`), in groups of `pipeline` micro-batches; the chunks of a group follow each other
    forward, and the other way round backward.
    """
    num_chunks = len(of_chunks)
    if num_chunks == 1:
        return (of_chunks[0] * min(layout.pipeline - rank, num_microbatches),)
    ahead = 2 * (layout.pipeline - rank - 1) + (num_chunks - 1) * layout.pipeline + 1
    in_all = num_microbatches * num_chunks
    if len(set(of_chunks)) == 1:
        return (of_chunks[0] * min(ahead, in_all),) * num_chunks
    most, kept = [0] * num_chunks, 0
    num_passes = min(in_all, ahead + layout.pipeline * num_chunks)  # they repeat themselves after a group
    for number in range(num_passes + ahead - 1):
        if number < num_passes:
            kept += of_chunks[number // layout.pipeline % num_chunks]
        if (num_backward := number - ahead + 1) >= 0:
            chunk = num_chunks - 1 - num_backward // layout.pipeline % num_chunks
            most[chunk] = max(most[chunk], kept)
            kept -= of_chunks[chunk]
    return tuple(most)


class _Step:
    """A step of one pipeline rank in one phase. Numbers are counted for one rank, bytes for all tokens that it has."""

    def __init__(self, config: Config, layout: Layout, rank: int, phase: PhaseConfig) -> None:
        model, parallel = config.model, config.parallel
        self._model, self._layout = model, layout
        self._value_bytes = 2 if config.precision.dtype == "bf16" else _FP32_BYTES
        self._tokens = parallel.micro_batch_size * phase.seq_length // layout.context
        self._is_first, self._is_last = rank == 0, rank == layout.pipeline - 1
        self._num_mtp_modules = model.num_mtp_modules if self._is_last else 0
        # The gradient of an embedding that is read again behind the layers, on the same rank, waits for its first.
        is_read_again = model.num_mtp_modules > 0 or not model.untie_embeddings_and_output_weights
        self._embedding_waits = layout.pipeline == 1 and is_read_again
        self._gathers = parallel.sequence_parallel and layout.tensor > 1
        self._stream = model.hidden_size // (layout.tensor if self._gathers else 1)
        # The inverse root, with LayerNorm also the mean.
        self._numbers_of_norm = 2 if model.normalization == "LayerNorm" else 1
        self._parallel, self._modules, self._rank = parallel, parallel.recomputed_modules, rank
        self._num_microbatches = max(1, phase.global_batch_size // (parallel.micro_batch_size * layout.data))
        self._chunks = layers_of_rank(layers_per_stage(config), rank)
        self._experts = ExpertLayer(
            model=model,
            layout=layout,
            value_bytes=self._value_bytes,
            own_tokens=self._tokens // (layout.tensor if self._gathers else 1),
            all_tokens=self._tokens,
            modules=self._modules,
        )

    def moments(self) -> Iterator[WorkingMemory]:
        """Yield the moments at which memory may be at its peak.

        They are in the MLP of each chunk's last layer, in the output layer, and where an embedding with few layers
        behind it gets its gradient.
        """
        of_chunks = [self._of_chunk(layers) for layers in self._chunks]
        kept = _kept_before_backward(of_chunks, self._layout, self._rank, self._num_microbatches)
        waiting = self._value_bytes * self._weight_numbers(EMBEDDING) if self._embedding_waits else 0
        for layers, kept_of_rank in zip(self._chunks, kept, strict=True):
            if layers:
                for moment in self._moments_of_layer(layers, kept_of_rank + self._made_again(layers)):
                    yield replace(moment, temporary_bytes=moment.temporary_bytes + waiting)
        if self._is_last:
            num_copies = 1 if self._model.final_logit_softcapping is None else 2
            logits = self._bytes(num_copies * self._model.padded_vocab_size // self._layout.tensor)
            yield from self._moments_behind_layers(kept[-1] + self._behind_layers(), logits)
        if self._is_first:
            yield self._moment(kept[0] - of_chunks[0], numbers=self._stream, weight=EMBEDDING)

    def _moments_behind_layers(self, kept: int, logits: int) -> Iterator[WorkingMemory]:
        """Yield the moments in the output layer, and in the layer of the last module, whose backward comes behind it.

        Then the logits of the modules before it are still there. The gradient of the output layer waits for theirs, and
        that of the stream behind the last layer for that of the first module.
        """
        number, output = self._num_mtp_modules, output_name(self._model)
        kept += number * self._of_mtp_module()
        yield self._moment(kept, numbers=self._given(), weight=output, logits=(1 + number) * logits)
        if not number:
            return
        like = range(self._model.num_layers - 1, self._model.num_layers)
        again = 0 if self._parallel.recomputation == "full" else self._made_again(like)
        if self._parallel.recomputes_mtp_layers:
            again = self._of_layer(has_experts=self._model.expert_layers[-1])
        waiting = self._bytes(self._stream) + self._value_bytes * self._weight_numbers(output)
        for moment in self._moments_of_layer(like, kept + again):
            of_others = (number - 1) * logits
            yield replace(moment, logits_bytes=of_others, temporary_bytes=moment.temporary_bytes + waiting)

    def _moments_of_layer(self, layers: range, kept: int) -> Iterator[WorkingMemory]:
        """Yield the moments in the MLP of the last of these layers, with what is kept as its backward begins."""
        has_experts = self._model.expert_layers[layers[-1]]
        yield from (self._moments_of_experts if has_experts else self._moments_of_mlp)(layers, kept)

    def _moments_of_experts(self, layers: range, kept: int) -> Iterator[WorkingMemory]:
        experts = self._experts
        if self._is_recomputed_whole(layers) or "moe" in self._modules:
            experts = replace(experts, modules=frozenset())
        for made, freed in experts.moments():
            moment = self._moment(kept - freed, numbers=self._stream)
            yield replace(moment, temporary_bytes=moment.temporary_bytes + made)

    def _given(self) -> int:
        """Return the numbers of the gradient that a projection from the stream gives, gathered and scattered."""
        return self._model.hidden_size + (self._stream if self._gathers else 0)

    def _moments_of_mlp(self, _layers: range, kept: int) -> Iterator[WorkingMemory]:
        hidden, stream = self._model.hidden_size, self._stream
        first, second = self._width(_FIRST_OF_MLP), self._width(_SECOND_OF_MLP)
        # What is kept as a recipe is there for a moment: the input of each projection in its turn, or of the whole MLP.
        again = "mlp_act" in self._modules and "mlp" not in self._modules
        activated, normed = second if again else 0, stream if "layernorm" in self._modules else 0
        # An MLP that is recomputed has its input and its output while it goes backward.
        around = (normed + stream) if "mlp" in self._modules else 0
        # A gradient of the residual stream stands beside those of each projection and of the activation.
        gathered = hidden if self._gathers else 0
        yield self._moment(kept, numbers=stream + second + gathered + activated + around, weight=_SECOND_OF_MLP)
        kept -= self._bytes(0 if again else second)
        yield self._moment(kept, numbers=stream + second + first + around)
        numbers = stream + first + self._given() + max(normed, around)
        yield self._moment(kept - self._bytes(first), numbers=numbers, weight=_FIRST_OF_MLP)

    def _moment(
        self, activations_bytes: int, *, numbers: int, weight: str | None = None, logits: int = 0
    ) -> WorkingMemory:
        """Return the memory while backward makes `numbers` a token, and the gradient of a weight."""
        gradients = self._weight_numbers(weight) if weight else 0
        return WorkingMemory(
            activations_bytes=activations_bytes,
            logits_bytes=logits,
            temporary_bytes=self._bytes(numbers + self._passed_on()) + self._value_bytes * gradients,
        )

    def _passed_on(self) -> int:
        """Return the numbers of the residual stream that stay for the passage between ranks.

        With sequence parallelism the input of a projection is gathered into one buffer. What was sent to the stage
        before stays until the next is sent. An interleaved stage receives ahead, up to a few inputs and gradients.
        """
        buffer = self._model.hidden_size if self._gathers else 0
        ahead = _RECEIVED_AHEAD if self._layout.virtual_pipeline > 1 else 0
        return buffer + self._stream * (ahead + (not self._is_first))

    def _made_again(self, layers: range) -> int:
        """Return the bytes that are recomputed as backward begins in the last of a model chunk's layers."""
        if self._is_recomputed_whole(layers):
            # The layers that are recomputed together have all of it for a moment, and the output of the last.
            unit = layers[-self._parallel.layers_of_unit :]
            return sum(self._of_layer(has_experts=self._model.expert_layers[layer]) for layer in unit)
        if self._model.expert_layers[layers[-1]]:
            made = replace(self._experts, modules=frozenset()).made_bytes()
            return made if "moe" in self._modules else 0
        return self._bytes(self._width(_FIRST_OF_MLP) + self._width(_SECOND_OF_MLP)) if "mlp" in self._modules else 0

    def _is_recomputed_whole(self, layers: range) -> bool:
        """Return whether the last one of a model chunk's layers is recomputed as a whole."""
        return self._parallel.num_recomputed(len(layers)) == len(layers)

    def _of_chunk(self, layers: range) -> int:
        """Return the bytes kept of one micro-batch in a model chunk."""
        num_recomputed = self._parallel.num_recomputed(len(layers))
        num_units = -(-num_recomputed // self._parallel.layers_of_unit)
        kinds = self._model.expert_layers[layers.start + num_recomputed : layers.stop]
        of_others = sum(kinds.count(kind) * self._of_layer(has_experts=kind) for kind in set(kinds))
        return num_units * self._bytes(self._stream) + of_others

    def _of_layer(self, *, has_experts: bool) -> int:
        """Return the bytes kept of one layer that is not recomputed as a whole."""
        tensor, modules = self._layout.tensor, self._modules
        heads, groups = self._model.num_attention_heads, self._model.query_groups
        has_norms_before = self._model.norm_placement != "behind"
        num_norms = 4 if self._model.norm_placement == "around" else 2
        # Each half keeps the input of its first projection, and the input of each of its norms.
        numbers = (2 + num_norms) * self._stream + _numbers_inside(self._model, has_experts) // tensor
        numbers += _beside_projected_heads(self._model) // tensor
        numbers += 0 if "core_attn" in modules else self._of_shared_attention() // tensor
        if "layernorm" in modules:
            numbers -= 2 * self._stream * has_norms_before
        if not has_experts and "mlp" in modules:
            numbers -= self._width(_FIRST_OF_MLP) + self._width(_SECOND_OF_MLP)
        elif not has_experts and "mlp_act" in modules:
            numbers -= self._width(_SECOND_OF_MLP)
        of_latents = numbers_of_latents(self._model, recomputes="layernorm" in modules)
        numbers += of_latents * self._stream // self._model.hidden_size
        of_experts = self._experts.kept_bytes() if has_experts else 0
        rows = 0 if "core_attn" in modules else heads // tensor
        if self._model.qk_layernorm and not self._model.multi_latent_attention:
            rows += self._numbers_of_norm * (heads + groups) // tensor if self._model.norms_each_head else 2
        of_norms = (num_norms + num_norms_of_latents(self._model)) * self._norm_bytes()
        return self._bytes(numbers) + _FP32_BYTES * self._tokens * rows + of_norms + of_experts

    def _of_shared_attention(self) -> int:
        """Return the numbers that attention keeps besides where ranks share samples.

        These are the keys and values of other ranks' tokens, if all gather them, and what heads give, which is put
        together anew for the projection behind.
        """
        model, others = self._model, self._layout.context - 1
        if not others or self._parallel.cp_comm_type == "p2p":
            return 0
        is_latent = model.multi_latent_attention  # its heads are as wide as the wider ones of them
        width = max(model.head_size, model.value_size) if is_latent else model.head_size
        gathers = self._parallel.cp_comm_type != "a2a"
        groups = model.num_attention_heads if is_latent else model.query_groups
        return (model.num_attention_heads + (2 * others * groups if gathers else 0)) * width

    def _of_mtp_module(self) -> int:
        """Return the bytes kept of a module that predicts further tokens, beside its logits.

        These are the embedding and the stream that its norms read, of which the stream is another's output; what both
        give to the projection; its layer; and input and output of its last norm.
        """
        if self._parallel.recomputes_mtp_layers:
            return self._bytes(2 * self._stream) + self._norm_bytes()
        kept = self._bytes(5 * self._stream) + 3 * self._norm_bytes()
        return kept + self._of_layer(has_experts=self._model.expert_layers[-1])

    def _behind_layers(self) -> int:
        """Return the bytes kept of the final norm: its input and its output."""
        return self._bytes(2 * self._stream) + self._norm_bytes()

    def _norm_bytes(self) -> int:
        """Return the bytes of the fp32 numbers that a norm of the residual stream keeps."""
        return _FP32_BYTES * self._numbers_of_norm * self._tokens * self._stream // self._model.hidden_size

    def _width(self, name: str) -> int:
        """Return the width on this rank of what a projection gives to the next one, or takes from the one before."""
        parameter = find_parameter(in_layer(_first_dense(self._model), name), self._model)
        assert parameter.cut is not None, f"tensor-parallel ranks share {name}"
        return parameter.shape[parameter.cut.dim] // self._layout.tensor

    def _weight_numbers(self, name: str) -> int:
        whole = name if name in (OUTPUT, EMBEDDING) else in_layer(_first_dense(self._model), name)
        return find_parameter(whole, self._model).size // self._layout.tensor

    def _bytes(self, numbers: int) -> int:
        """Return the bytes that all tokens take with this many numbers each, in the format of activations."""
        return self._value_bytes * self._tokens * numbers


@lru_cache(maxsize=_NUM_REMEMBERED)
def _numbers_inside(model: ModelConfig, has_experts: bool) -> int:
    """Return the numbers per token between the projections of a layer: the first of each half gives, the last takes.

    These are the dimensions over which tensor-parallel ranks share the weights. Those of experts are counted elsewhere.
    """
    layer = model.expert_layers.index(has_experts)
    return sum(
        parameter.shape[parameter.cut.dim]
        for parameter in parameter_table(model)
        if parameter.layer == layer
        and parameter.cut is not None
        and parameter.num_multiplied
        and parameter.part != "experts"
    )


def _first_dense(model: ModelConfig) -> int:
    return model.expert_layers.index(False)


def _beside_projected_heads(model: ModelConfig) -> int:
    """Return the numbers per token that attention keeps beside those that projections give and take.

    They stand in front of norms of queries and keys, or are heads that latent attention has made.

    Without such norms the cut of the projection rotates as well, and nothing of the projection is kept. With them
    values and keys are views of it, which keep all of it; queries are copied out of it where several heads share keys,
    and keys where all heads are normalized together.
    """
    if model.multi_latent_attention:
        return numbers_beside_projections(model)
    if not model.qk_layernorm:
        return 0
    heads, groups = model.num_attention_heads, model.query_groups
    copied = (heads if groups < heads else 0) + (0 if model.norms_each_head else groups)
    return (heads + groups + copied) * model.head_size
