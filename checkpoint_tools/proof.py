"""The proof of a conversion: both models compute the same, one through megatron-core, the other through transformers.

Ours is built by megatron-core and loaded by Megatron's own reader; theirs is built and loaded by transformers. Both get
the same token ids at the same positions, in fp32. Weights are compared as they were written: with `--dtype bf16` ours
are rounded first. Then every value is compared (`values`), also of layers that did not fit into memory, and what was
lost by rounding is held against the precision of the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from checkpoint_tools import transformers_model
from checkpoint_tools.free_memory import available_bytes
from checkpoint_tools.growth import NO_GROWTH, Growth
from checkpoint_tools.our_tensors import OurTensors
from checkpoint_tools.prompts import Prompts, longest_text, make_prompts
from checkpoint_tools.their_tensors import TheirTensors, open_model
from checkpoint_tools.values import NOT_PUBLISHED, NOT_THE_SAME, ComparedValues, require_same_values
from harness.config.model import ModelConfig
from harness.errors import CheckpointError
from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.run.files import remove_tree

MAX_RELATIVE_DIFFERENCE = 1e-4
"""Largest difference of a logit, as a share of the largest logit: fp32 rounding stays below a tenth of it."""
MAX_KL = 1e-6
"""Mean Kullback-Leibler divergence of the predictions, in nats."""
MIN_ARGMAX_AGREEMENT = 0.99
"""Share of positions at which both predict the same token; ties within rounding make up the rest."""
MAX_FREQUENCY_DIFFERENCE = 1e-5
"""Relative difference of a rotary frequency. Short prompts hardly see the low ones, so that they are compared too."""

_BYTES_PER_PARAMETER = 12
"""Theirs in fp32, ours in fp32 with the gradient buffer that Megatron's wrapper allocates."""
_SHARE_OF_MEMORY = 0.7

Trace = Mapping[str, torch.Tensor]
"""Intermediate values of a model in order: `embedding`, `layer 0` …, `final norm`, `logits`; fp32 `[B, S, …]`."""


@dataclass(frozen=True, kw_only=True)
class Distances:
    """The distances between the traces of two models."""

    max_difference: float
    mean_difference: float
    largest_logit: float
    kl: float
    argmax_agreement: float
    first_difference: str | None
    """The first place on the way through the model at which they differ by more than rounding."""

    @property
    def hold(self) -> bool:
        """True if every distance is within its bound."""
        return (
            self.first_difference is None
            and self.max_difference <= MAX_RELATIVE_DIFFERENCE * self.largest_logit
            and self.kl <= MAX_KL
            and self.argmax_agreement >= MIN_ARGMAX_AGREEMENT
        )

    def summary(self) -> str:
        """Return the numbers as a part of a line."""
        return (
            f"largest difference {self.max_difference:.1e}, mean {self.mean_difference:.1e} (largest logit "
            f"{self.largest_logit:.2f}), KL {self.kl:.1e}, same argmax {self.argmax_agreement:.2%}"
        )


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A proof that holds: what was compared, and the distances found."""

    num_layers: int
    """Layers that both models computed."""
    of_layers: int
    num_tokens: int
    longest_position: int
    distances: Distances
    values: ComparedValues

    def as_json(self) -> dict[str, object]:
        """Return the numbers and the bounds."""
        bounds = {
            "max_relative_difference": MAX_RELATIVE_DIFFERENCE,
            "kl": MAX_KL,
            "argmax_agreement": MIN_ARGMAX_AGREEMENT,
        }
        return {
            "num_layers": self.num_layers,
            "of_layers": self.of_layers,
            "num_tokens": self.num_tokens,
            "longest_position": self.longest_position,
            **asdict(self.distances),
            **asdict(self.values),
            "bounds": bounds,
        }

    def summary(self) -> str:
        """Return the numbers in one line."""
        return (
            f"logits through megatron-core and transformers ({_layers_text(self.num_layers, self.of_layers)}, fp32): "
            f"{self.distances.summary()}; {self.num_tokens} tokens, up to position {self.longest_position:,}; every "
            f"value of all {self.values.num_tensors} tensors equal ({' and '.join(self.values.formats)}), with "
            f"{self.values.num_rows:,} rows of the vocabulary{self._vanished_text()}"
        )

    def _vanished_text(self) -> str:
        number = self.values.num_vanished
        return f"; {number:,} values that are not zero are so small that they became zero" if number else ""


def _layers_text(num_layers: int, of_layers: int) -> str:
    return f"{num_layers} of {of_layers} layers" if num_layers < of_layers else "all layers"


def prove(
    ours: OurTensors, folder: Path, scratch: Path, *, num_layers: int | None = None, growth: Growth = NO_GROWTH
) -> Proof:
    """Compare a checkpoint with a Hugging Face model's folder.

    Logits are those of its first `num_layers`; None: all, or as many as fit into this machine's memory. If not all fit,
    the first ones are written to the folder `scratch`, which is removed. Values are compared in all layers. With
    `growth` the checkpoint's model is larger.

    Raises:
        CheckpointError: They are not the same model. Says where they begin to differ.
    """
    theirs = open_model(folder)
    transformers_model.require_shapes(theirs)
    transformers_model.require_frequencies(theirs, ours.model, MAX_FREQUENCY_DIFFERENCE)
    compared = num_layers or layers_that_fit(ours.model, available_bytes())
    if compared == 0:
        raise CheckpointError(
            f"The proof needs memory for one layer with embedding and output ({_bytes_of(ours.model, 1) / 1e9:.1f} GB),"
            " which this machine does not have. Convert on a larger one."
        )
    compared = min(compared, theirs.model.num_layers)
    prompts = make_prompts(theirs.model.vocab_size, longest_text(theirs.fields, theirs.model))
    # One after the other: only what was computed is kept.
    their_trace: Trace = transformers_model.trace(theirs, prompts, compared)
    our_trace = _our_trace(ours, scratch, prompts, growth.first_layers(compared), _format_of(theirs))
    if growth != NO_GROWTH:
        our_trace, their_trace = (_common(trace, theirs.model.vocab_size) for trace in (our_trace, their_trace))
    distances = compare(our_trace, their_trace)
    if not distances.hold:
        layers = _layers_text(compared, theirs.model.num_layers)
        raise CheckpointError(
            f"{NOT_THE_SAME}: they first differ at {distances.first_difference or 'logits'}.\n  logits through "
            f"megatron-core and transformers ({layers}, fp32): {distances.summary()}\n{NOT_PUBLISHED}"
        )
    return Proof(
        num_layers=compared,
        of_layers=theirs.model.num_layers,
        num_tokens=prompts.tokens_BS.numel(),
        longest_position=int(prompts.positions_BS.max()),
        distances=distances,
        values=require_same_values(ours, theirs, growth),
    )


def _format_of(theirs: TheirTensors) -> torch.dtype | None:
    """Return the one number format of all tensors, to which ours may have been rounded; None if each kept its own."""
    formats = {theirs.described(name)[1] for name in theirs.names}
    return formats.pop() if len(formats) == 1 else None


def _common(trace: Trace, vocab_size: int) -> Trace:
    """Return the part of a trace that a model shares with a larger one that computes the same."""
    kept = {name: value for name, value in trace.items() if not name.startswith("layer ")}
    return {**kept, "logits": kept["logits"][..., :vocab_size]}


def compare(ours: Trace, theirs: Trace) -> Distances:
    """Return the distances between two traces."""
    assert list(ours) == list(theirs), f"the traces have different places: {list(ours)}, {list(theirs)}"
    a, b = ours["logits"].double(), theirs["logits"].double()
    difference = (a - b).abs()
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    return Distances(
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        largest_logit=float(b.abs().max()),
        kl=float((log_b.exp() * (log_b - log_a)).sum(-1).mean().abs()),
        argmax_agreement=float((a.argmax(-1) == b.argmax(-1)).double().mean()),
        first_difference=next((name for name in ours if not _are_close(ours[name], theirs[name])), None),
    )


def layers_that_fit(model: ModelConfig, memory_bytes: int) -> int:
    """Return the number of first layers that can be compared in this much memory; 0: not even one."""
    room = memory_bytes * _SHARE_OF_MEMORY
    return max((number for number in range(1, model.num_layers + 1) if _bytes_of(model, number) <= room), default=0)


def _bytes_of(model: ModelConfig, num_layers: int) -> int:
    from harness.plan.parameters import count_parameters

    return count_parameters(model.with_layers(range(num_layers))).total * _BYTES_PER_PARAMETER


def _are_close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return False
    scale = float(theirs.abs().max())
    return float((ours - theirs).abs().max()) <= MAX_RELATIVE_DIFFERENCE * max(scale, 1e-30)


def _our_trace(ours: OurTensors, scratch: Path, prompts: Prompts, num_layers: int, dtype: torch.dtype | None) -> Trace:
    # Imported here: Megatron takes seconds to import, and a wrong request should not have to wait for it.
    from checkpoint_tools import mcore

    if num_layers == ours.model.num_layers:
        return mcore.trace(ours.path, ours.model, prompts, dtype)
    from checkpoint_tools.checkpoint_writer import write_first_layers

    remove_tree(scratch, first=MANIFEST_NAME)  # left over, if the last one was interrupted
    scratch.mkdir()
    try:
        model = write_first_layers(ours, scratch, num_layers)
        return mcore.trace(scratch, model, prompts, dtype)
    finally:
        remove_tree(scratch, first=MANIFEST_NAME)
