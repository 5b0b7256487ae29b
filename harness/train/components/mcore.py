"""Runs a step's micro-batches through megatron-core's pipeline schedule, and reduces losses, token counts and flags.

One reduction over all ranks carries the loss sum and the token count of every channel together with the ranks' flags
(a command is waiting, a signal arrived) and what routers counted. It takes the place of the reductions with which
Megatron counts tokens.

Shapes: B micro batch, S sequence, C channels (or places of all of them), M modules that predict further tokens, X
numbers of routers (see `harness.model.experts.tally`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness.config.model import ModelConfig
from harness.data.batch import Batch
from harness.model.attention.bounds import Documents, Stretch, documents_at, stretches_of
from harness.model.context import own_part
from harness.model.experts.mcore import tallies_in
from harness.model.experts.tally import RowSums, Tallies
from harness.model.further_tokens.ends import add_up_over_ends
from harness.model.further_tokens.tally import ModuleLoss, losses_in, read_losses
from harness.model.loss import Sums, by_channel, by_place, per_sample_sums
from harness.parallel import collectives, cpu
from harness.parallel.ranks import Ranks

cpu.prepare()

from megatron.core.distributed import finalize_model_grads  # noqa: E402 (the CPU must be prepared first)
from megatron.core.pipeline_parallel import get_forward_backward_func  # noqa: E402
from megatron.core.utils import get_model_config  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the whole global batch, equal on every rank."""

    loss_sums: tuple[float, ...]
    """Summed loss of every channel, in nats; where places are summed up apart, of every place of each."""
    num_tokens: tuple[float, ...]
    """Tokens that counted, likewise."""
    flags: tuple[float, ...]
    """Number of ranks that raised each flag."""
    experts: tuple[RowSums, ...] = ()
    """Sums of the router of each layer with experts."""
    further_tokens: tuple[ModuleLoss, ...] = ()
    """Losses of the modules that predict further tokens; 0 without gradients."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StepSums:
    """The same sums, still on the device, for which the host has not waited."""

    values: torch.Tensor
    """Losses, tokens, flags, modules and routers one behind the other: `[2·C + flags + 2·M + X]`, fp64."""
    gradient_scale: torch.Tensor
    """A number to multiply the gradients with: above 1 if tokens did not count."""


class Pipeline:
    """This rank's model chunks, driven by Megatron's schedule for the layout."""

    def __init__(
        self,
        chunks: list[Any],
        ranks: Ranks,
        model: ModelConfig,
        *,
        num_channels: int,
        micro_batch_size: int,
        seq_length: int,
    ) -> None:
        self.chunks = chunks
        self._tallies = Tallies(
            (tally for chunk in chunks for tally in tallies_in(chunk)),
            num_rows=sum(model.routed_layers),
            num_experts=model.num_moe_experts or 0,
        )
        self._losses = [tally for chunk in chunks for tally in losses_in(chunk)]
        self._num_mtp_modules = model.num_mtp_modules
        self._ranks = ranks
        self._in_training = Sums(num_channels)
        self.micro_batch_size = micro_batch_size
        self._seq_length = seq_length
        self._config = get_model_config(chunks[0])
        self._config.finalize_model_grads_func = self._finalize
        self._device = torch.device(torch.cuda.current_device())
        self._per_sample: list[torch.Tensor] = []
        self._kinds = self._in_training
        self._sums = torch.zeros(2, num_channels, dtype=torch.float64, device=self._device)
        self._flags: Sequence[bool] = ()
        self._expected_tokens = 1
        self._step_sums: StepSums | None = None

    def forward_backward(
        self, micro_batches: Sequence[Batch | None], *, expected_tokens: int, flags: Sequence[bool]
    ) -> StepSums:
        """Run forward and backward of one step, without waiting for the device. Every rank must call it.

        The gradient buffers then hold the sum over all tokens that count, over `expected_tokens`.

        Args:
            micro_batches: This data-parallel rank's micro-batches; None each on a stage that reads no tokens.
            expected_tokens: Tokens of the global batch without masking.
            flags: This rank's flags for the others.
        """
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self._begin(expected_tokens, flags)
        self._run(micro_batches, forward_only=False)
        assert self._step_sums is not None, "the schedule did not finalize the gradients"
        return self._step_sums

    @torch.no_grad()
    def forward(
        self, micro_batches: Sequence[Batch | None], *, flags: Sequence[bool], sums: Sums | None = None
    ) -> Totals:
        """Return the loss without computing gradients. Every rank must call it.

        Args:
            micro_batches: As in `forward_backward`.
            flags: This rank's flags for the others.
            sums: What losses are summed up by. Default: the channels of the run.
        """
        self._begin(1, flags, sums)
        for chunk in self.chunks:
            chunk.eval()
        self._run(micro_batches, forward_only=True)
        for chunk in self.chunks:
            chunk.train()
        totals, _ = self.read(self._reduce())
        return totals

    def balance_experts(self, sums: StepSums) -> None:
        """Move the biases of experts by what a step counted. Only for a step that is applied."""
        if self._tallies.size:
            self._tallies.move_biases(sums.values[-self._tallies.size :])

    def read(self, sums: StepSums, *numbers: torch.Tensor) -> tuple[Totals, list[float]]:
        """Return the sums, and further numbers of the device. Waits for the device, once for all."""
        read = torch.cat((sums.values, *(number.double().reshape(1) for number in numbers))).tolist()
        count, end = len(self._kinds), sums.values.numel()
        routers = end - self._tallies.size
        modules = routers - 2 * self._num_mtp_modules
        totals = Totals(
            loss_sums=tuple(read[:count]),
            num_tokens=tuple(read[count : 2 * count]),
            flags=tuple(read[2 * count : modules]),
            further_tokens=read_losses(read[modules:routers]),
            experts=self._tallies.read(read[routers:end]),
        )
        return totals, read[end:]

    def last_sample_losses(self) -> list[tuple[float, float]]:
        """Return (summed loss, tokens) of each sample of the last micro-batches, in order. Empty off the last stage."""
        if not self._ranks.counts_loss:
            return []
        return [(loss, tokens) for part in self._per_sample for loss, tokens in part.tolist()]

    def _begin(self, expected_tokens: int, flags: Sequence[bool], sums: Sums | None = None) -> None:
        self._step_sums = None
        self._kinds = sums or self._in_training
        if self._sums.size(1) != len(self._kinds):
            self._sums = self._sums.new_empty(2, len(self._kinds))
        self._sums.zero_()
        self._per_sample.clear()
        self._flags = flags
        self._expected_tokens = expected_tokens
        self._tallies.begin(1 / expected_tokens)
        for tally in self._losses:
            tally.begin(1 / expected_tokens)

    def _run(self, micro_batches: Sequence[Batch | None], *, forward_only: bool) -> None:
        schedule = get_forward_backward_func()
        iterators = [iter(micro_batches) for _ in self.chunks]
        schedule(
            forward_step_func=self._forward_step,
            data_iterator=iterators if len(self.chunks) > 1 else iterators[0],
            model=self.chunks,
            num_microbatches=len(micro_batches),
            seq_length=self._seq_length,
            micro_batch_size=self.micro_batch_size,
            forward_only=forward_only,
        )

    def _forward_step(self, batches: Iterator[Batch | None], model: Any) -> tuple[torch.Tensor, Any]:  # noqa: ANN401
        waiting = next(batches)
        if waiting is None:
            return model(None, None, None), None
        documents = self._documents(waiting)
        batch = self._own_part(waiting.to(self._device))
        output = model(batch.tokens_BS, None, documents, labels=batch.labels_BS, loss_mask=batch.loss_mask_BS)
        return output, lambda loss_BS: self._loss(loss_BS, batch)

    def _documents(self, batch: Batch) -> Documents | None:
        """Return the documents of a micro-batch that is still on the host, and what this rank has of them."""
        starts = batch.document_starts
        if starts is None:
            return None
        stretches: tuple[Stretch, ...] = ()
        if self._ranks.cp.size > 1:
            batch_size, length = batch.tokens_BS.shape
            stretches = stretches_of(length, batch_size, self._ranks.cp, starts.tolist(), self._device)
        return documents_at(starts, self._device, stretches)

    def _own_part(self, batch: Batch) -> Batch:
        """Return this rank's part of a batch: with context parallelism, its two slices of every sequence.

        Each context-parallel rank counts the loss of its own tokens, so sums over all ranks count every token once.
        """
        cp = self._ranks.cp
        return replace(
            batch,
            tokens_BS=own_part(batch.tokens_BS, cp),
            labels_BS=own_part(batch.labels_BS, cp),
            loss_mask_BS=own_part(batch.loss_mask_BS, cp),
            places_BS=None if batch.places_BS is None else own_part(batch.places_BS, cp),
        )

    def _loss(self, loss_BS: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Return the differentiated scalar: summed loss over expected tokens. Megatron does not scale it."""
        per_sample_B2 = per_sample_sums(loss_BS.detach(), batch.loss_mask_BS)
        self._per_sample.append(per_sample_B2)
        if self._ranks.counts_loss:
            self._sums += self._by_kind(loss_BS.detach(), per_sample_B2, batch)
        scalar = (loss_BS * batch.loss_mask_BS).sum() / self._expected_tokens
        return scalar, torch.zeros((), dtype=torch.int, device=self._device), {}

    def _by_kind(self, loss_BS: torch.Tensor, per_sample_B2: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return loss sum and token count of every channel, or of every place of each: `[2, C]`, fp64."""
        if self._kinds.num_places == 1:
            return by_channel(per_sample_B2, batch.channel_ids_B, self._kinds.num_channels)
        places_BS = torch.zeros_like(batch.labels_BS) if batch.places_BS is None else batch.places_BS
        return by_place(loss_BS, batch.loss_mask_BS, batch.channel_ids_B, places_BS, self._kinds)

    def _finalize(self, chunks: list[Any], _num_tokens: object, **arguments: Any) -> None:  # noqa: ANN401 (Megatron's)
        """Finalize gradients as Megatron does, with our reduction in place of its count of tokens."""
        finalize_model_grads(chunks, None, **arguments)
        add_up_over_ends(chunks)
        self._step_sums = self._reduce()

    def _reduce(self) -> StepSums:
        own = torch.zeros(len(self._flags), dtype=torch.float64, device=self._device)
        for place in (place for place, flag in enumerate(self._flags) if flag):
            own[place].fill_(1.0)  # on the device: a list that is copied there would make the host wait
        parts = (self._sums.flatten(), own, self._losses_of_mtp_modules(), self._tallies.values(self._device))
        values = collectives.sum_over(torch.cat(parts))
        counted = values[len(self._kinds) : 2 * len(self._kinds)].sum()
        scale = torch.where(counted > 0, self._expected_tokens / counted, 1.0)
        return StepSums(values=values, gradient_scale=scale.float())

    def _losses_of_mtp_modules(self) -> torch.Tensor:
        """Return this rank's part of the sums of modules over all ranks: `[2·M]`, fp64."""
        sums = torch.zeros(self._num_mtp_modules, 2, dtype=torch.float64, device=self._device)
        for tally in self._losses if self._ranks.counts_loss else ():
            sums += tally.sums(self._device)
        return sums.flatten()
