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

Selective recomputation computes the inputs of the projections behind norms (2*h; none with norms behind) and behind the
activation (f) again.

The peak is at one of four moments of the backward pass of a micro-batch: at the output layer, or at the second
projection, the activation or the first projection of the last layer's MLP. The gradient of a weight is whole, in the
format of the weights, before it is added to the fp32 gradients. `harness.trace` measures the same on the real program.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from harness.config.model import ModelConfig
from harness.config.schema import Config, PhaseConfig
from harness.parameters.names import EMBEDDING, OUTPUT, in_layer
from harness.parameters.table import find_parameter, parameter_table
from harness.plan.expert_memory import ExpertLayer
from harness.plan.latent_memory import num_norms_of_latents, numbers_beside_projections, numbers_of_latents
from harness.plan.layouts import Layout, layers_per_stage

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


def layers_in_flight(layout: Layout, stages: tuple[tuple[int, ...], ...], rank: int, num_microbatches: int) -> int:
    """Return the most layers x micro-batches whose activations a pipeline rank keeps at once.

    1F1B: rank r has run `pipeline - r` micro-batches ahead. Interleaved: it has run `2 * (pipeline - r - 1)
    + (chunks - 1) * pipeline + 1` chunks ahead (Megatron-Core: `get_pp_rank_microbatches`).
    """
    if layout.virtual_pipeline == 1:
        return stages[0][rank] * min(layout.pipeline - rank, num_microbatches)
    ahead = 2 * (layout.pipeline - rank - 1) + (layout.virtual_pipeline - 1) * layout.pipeline + 1
    return stages[0][rank] * min(ahead, num_microbatches * layout.virtual_pipeline)


class _Step:
    """A step of one pipeline rank in one phase. Numbers are counted for one rank, bytes for all tokens that it has."""

    def __init__(self, config: Config, layout: Layout, rank: int, phase: PhaseConfig) -> None:
        model, parallel = config.model, config.parallel
        self._model, self._layout = model, layout
        self._value_bytes = 2 if config.precision.dtype == "bf16" else _FP32_BYTES
        self._tokens = parallel.micro_batch_size * phase.seq_length // layout.context
        self._is_first, self._is_last = rank == 0, rank == layout.pipeline - 1
        # The gradient of an output layer that is tied with an embedding on the same rank waits for the embedding's.
        self._output_gradient_waits = layout.pipeline == 1 and not model.untie_embeddings_and_output_weights
        self._gathers = parallel.sequence_parallel and layout.tensor > 1
        self._stream = model.hidden_size // (layout.tensor if self._gathers else 1)
        # The inverse root, with LayerNorm also the mean.
        self._numbers_of_norm = 2 if model.normalization == "LayerNorm" else 1
        self._recompute = parallel.recompute
        num_microbatches = max(1, phase.global_batch_size // (parallel.micro_batch_size * layout.data))
        stages = layers_per_stage(config)
        self._in_flight = layers_in_flight(layout, stages, rank, num_microbatches)
        self._own_kinds = _kinds_of_layers(model, stages, rank)
        self._experts = ExpertLayer(
            model=model,
            layout=layout,
            value_bytes=self._value_bytes,
            own_tokens=self._tokens // (layout.tensor if self._gathers else 1),
            all_tokens=self._tokens,
        )

    def moments(self) -> Iterator[WorkingMemory]:
        """Yield the moments at which memory may be at its peak: in the last layer's MLP, and in the output layer."""
        yield from self._moments_of_experts() if self._own_kinds[-1] else self._moments_of_mlp()
        if self._is_last:
            kept = self._between_layers() + self._behind_layers()
            logits = self._bytes(self._model.padded_vocab_size // self._layout.tensor)
            yield self._moment(kept, numbers=self._given(), weight=self._output_name(), logits=logits)

    def _moments_of_experts(self) -> Iterator[WorkingMemory]:
        for made, freed in self._experts.moments(recomputes=self._recompute == "selective"):
            moment = self._moment(self._in_layers() - freed, numbers=self._stream)
            yield replace(moment, temporary_bytes=moment.temporary_bytes + made)

    def _given(self) -> int:
        """Return the numbers of the gradient that a projection from the stream gives, gathered and scattered."""
        return self._model.hidden_size + (self._stream if self._gathers else 0)

    def _moments_of_mlp(self) -> Iterator[WorkingMemory]:
        hidden, stream = self._model.hidden_size, self._stream
        first, second = self._width(_FIRST_OF_MLP), self._width(_SECOND_OF_MLP)
        kept = self._in_layers()
        # Selective recomputation has made the inputs of the projections again, each for its moment.
        again = self._recompute == "selective"
        activated, normed = (second, stream) if again else (0, 0)
        # A gradient of the residual stream stands beside those of each projection and of the activation.
        gathered = hidden if self._gathers else 0
        yield self._moment(kept, numbers=stream + second + gathered + activated, weight=_SECOND_OF_MLP)
        kept -= self._bytes(0 if again else second)
        yield self._moment(kept, numbers=stream + second + first)
        numbers = stream + first + self._given() + normed
        yield self._moment(kept - self._bytes(first), numbers=numbers, weight=_FIRST_OF_MLP)

    def _moment(
        self, activations_bytes: int, *, numbers: int, weight: str | None = None, logits: int = 0
    ) -> WorkingMemory:
        """Return the memory while backward makes `numbers` a token, and the gradient of a weight."""
        weights = {weight} if weight else set()
        if self._output_gradient_waits:
            weights.add(EMBEDDING)
        gradients = sum(map(self._weight_numbers, weights))
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

    def _in_layers(self) -> int:
        """Return the bytes kept while the last layer's backward begins."""
        if self._recompute != "full":
            return self._between_layers()
        # The layer that is computed again has all of it for a moment, and its output.
        return self._between_layers() + self._of_layer(has_experts=self._own_kinds[-1])

    def _between_layers(self) -> int:
        """Return the bytes kept between the passes of two layers."""
        if self._recompute == "full":
            return self._in_flight * self._bytes(self._stream)
        num_experts = sum(self._own_kinds)
        of_all = num_experts * self._of_layer(has_experts=True) if num_experts else 0
        if num_dense := len(self._own_kinds) - num_experts:
            of_all += num_dense * self._of_layer(has_experts=False)
        return self._in_flight * of_all // len(self._own_kinds)

    def _of_layer(self, *, has_experts: bool) -> int:
        """Return the bytes kept of one layer."""
        tensor = self._layout.tensor
        heads, groups = self._model.num_attention_heads, self._model.query_groups
        has_norms_before = self._model.norm_placement != "behind"
        num_norms = 4 if self._model.norm_placement == "around" else 2
        # Each half keeps the input of its first projection, and the input of each of its norms.
        numbers = (2 + num_norms) * self._stream + _numbers_inside(self._model, has_experts) // tensor
        numbers += _beside_projected_heads(self._model) // tensor
        recomputes = self._recompute == "selective"
        if recomputes:
            numbers -= 2 * self._stream * has_norms_before + (0 if has_experts else self._width(_SECOND_OF_MLP))
        of_latents = numbers_of_latents(self._model, recomputes=recomputes)
        numbers += of_latents * self._stream // self._model.hidden_size
        of_experts = self._experts.kept_bytes(recomputes=recomputes) if has_experts else 0
        rows = heads // tensor
        if self._model.qk_layernorm and not self._model.multi_latent_attention:
            rows += self._numbers_of_norm * (heads + groups) // tensor if self._model.norms_each_head else 2
        of_norms = (num_norms + num_norms_of_latents(self._model)) * self._norm_bytes()
        return self._bytes(numbers) + _FP32_BYTES * self._tokens * rows + of_norms + of_experts

    def _behind_layers(self) -> int:
        """Return the bytes kept of the final norm: its input and its output."""
        return self._bytes(2 * self._stream) + self._norm_bytes()

    def _norm_bytes(self) -> int:
        """Return the bytes of the fp32 numbers that a norm of the residual stream keeps."""
        return _FP32_BYTES * self._numbers_of_norm * self._tokens * self._stream // self._model.hidden_size

    def _output_name(self) -> str:
        return OUTPUT if self._model.untie_embeddings_and_output_weights else EMBEDDING

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


def _kinds_of_layers(model: ModelConfig, stages: tuple[tuple[int, ...], ...], rank: int) -> tuple[bool, ...]:
    """Return whether each layer of a pipeline rank has experts, in the order in which a token passes them."""
    kinds: list[bool] = []
    first = 0
    for chunk in stages:
        begin = first + sum(chunk[:rank])
        kinds += model.expert_layers[begin : begin + chunk[rank]]
        first += sum(chunk)
    return tuple(kinds)


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
