"""The proof of a conversion: both models compute the same, one through megatron-core, the other through transformers.

Ours is built by megatron-core and loaded by Megatron's own reader; theirs is built and loaded by transformers. Both get
the same token ids, in fp32. Weights are compared as they were written: with `--dtype bf16` ours are rounded first.
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
from checkpoint_tools.their_tensors import open_model
from harness.config.schema import ModelConfig
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

NUM_PROMPTS = 2
PROMPT_TOKENS = 96
_BYTES_PER_PARAMETER = 12
"""Theirs in fp32, ours in fp32 with the gradient buffer that Megatron's wrapper allocates."""
_SHARE_OF_MEMORY = 0.7

Trace = Mapping[str, torch.Tensor]
"""Intermediate values of a model in order: `embedding`, `layer 0` …, `final norm`, `logits`; fp32 `[B, S, …]`."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """The comparison of two models: its extent, and the distances found."""

    num_layers: int
    of_layers: int
    max_difference: float
    mean_difference: float
    largest_logit: float
    kl: float
    argmax_agreement: float
    first_difference: str | None
    """The first place on the way through the model at which they differ by more than rounding."""

    @property
    def holds(self) -> bool:
        """True if every distance is within its bound."""
        return (
            self.first_difference is None
            and self.max_difference <= MAX_RELATIVE_DIFFERENCE * self.largest_logit
            and self.kl <= MAX_KL
            and self.argmax_agreement >= MIN_ARGMAX_AGREEMENT
        )

    def as_json(self) -> dict[str, object]:
        """Return the numbers and the bounds."""
        bounds = {
            "max_relative_difference": MAX_RELATIVE_DIFFERENCE,
            "kl": MAX_KL,
            "argmax_agreement": MIN_ARGMAX_AGREEMENT,
        }
        return {**asdict(self), "bounds": bounds}

    def summary(self) -> str:
        """Return the numbers in one line."""
        layers = f"{self.num_layers} of {self.of_layers} layers" if self.num_layers < self.of_layers else "all layers"
        return (
            f"logits through megatron-core and transformers ({layers}, fp32): largest difference "
            f"{self.max_difference:.1e}, mean {self.mean_difference:.1e} (largest logit {self.largest_logit:.2f}), "
            f"KL {self.kl:.1e}, same argmax {self.argmax_agreement:.2%}"
        )


def prove(
    ours: OurTensors, folder: Path, scratch: Path, *, num_layers: int | None = None, growth: Growth = NO_GROWTH
) -> Proof:
    """Compare a checkpoint with a Hugging Face model's folder.

    Compared are its first `num_layers`; None: all, or as many as fit into this machine's memory. If not all fit, the
    first ones are written to the folder `scratch`, which is removed. With `growth` the checkpoint's model is larger.

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
    tokens = prompts(theirs.model.vocab_size)
    dtype = theirs.described(theirs.names[0])[1]
    # One after the other: only what was computed is kept.
    their_trace: Trace = transformers_model.trace(theirs, tokens, compared)
    our_trace = _our_trace(ours, scratch, tokens, growth.first_layers(compared), dtype)
    if growth != NO_GROWTH:
        our_trace, their_trace = (_common(trace, theirs.model.vocab_size) for trace in (our_trace, their_trace))
    proof = compare(our_trace, their_trace, num_layers=compared, of_layers=theirs.model.num_layers)
    if not proof.holds:
        place = proof.first_difference or "logits"
        raise CheckpointError(
            f"The converted model is not the same model: they first differ at {place}.\n  {proof.summary()}\n"
            "It was not published."
        )
    return proof


def _common(trace: Trace, vocab_size: int) -> Trace:
    """Return the part of a trace that a model shares with a larger one that computes the same."""
    kept = {name: value for name, value in trace.items() if not name.startswith("layer ")}
    return {**kept, "logits": kept["logits"][..., :vocab_size]}


def compare(ours: Trace, theirs: Trace, *, num_layers: int, of_layers: int) -> Proof:
    """Return the distances between two traces."""
    assert list(ours) == list(theirs), f"the traces have different places: {list(ours)}, {list(theirs)}"
    a, b = ours["logits"].double(), theirs["logits"].double()
    difference = (a - b).abs()
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    return Proof(
        num_layers=num_layers,
        of_layers=of_layers,
        max_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        largest_logit=float(b.abs().max()),
        kl=float((log_b.exp() * (log_b - log_a)).sum(-1).mean().abs()),
        argmax_agreement=float((a.argmax(-1) == b.argmax(-1)).double().mean()),
        first_difference=next((name for name in ours if not _are_close(ours[name], theirs[name])), None),
    )


def prompts(vocab_size: int) -> torch.Tensor:
    """Return fixed token ids `[B, S]` that look like noise and use the whole vocabulary."""
    positions = torch.arange(NUM_PROMPTS * PROMPT_TOKENS, dtype=torch.int64)
    return (positions * 2654435761 % 4294967291 % vocab_size).reshape(NUM_PROMPTS, PROMPT_TOKENS)


def layers_that_fit(model: ModelConfig, memory_bytes: int) -> int:
    """Return the number of first layers that can be compared in this much memory; 0: not even one."""
    room = memory_bytes * _SHARE_OF_MEMORY
    return max((number for number in range(1, model.num_layers + 1) if _bytes_of(model, number) <= room), default=0)


def _bytes_of(model: ModelConfig, num_layers: int) -> int:
    from harness.plan.parameters import count_parameters

    return count_parameters(model.model_copy(update={"num_layers": num_layers})).total * _BYTES_PER_PARAMETER


def _are_close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    if ours.shape != theirs.shape or not bool(ours.isfinite().all()):
        return False
    scale = float(theirs.abs().max())
    return float((ours - theirs).abs().max()) <= MAX_RELATIVE_DIFFERENCE * max(scale, 1e-30)


def _our_trace(ours: OurTensors, scratch: Path, tokens: torch.Tensor, num_layers: int, dtype: torch.dtype) -> Trace:
    # Imported here: Megatron takes seconds to import, and a wrong request should not have to wait for it.
    from checkpoint_tools import mcore

    if num_layers == ours.model.num_layers:
        return mcore.trace(ours.path, ours.model, tokens, dtype)
    from checkpoint_tools.checkpoint_writer import write_first_layers

    remove_tree(scratch, first=MANIFEST_NAME)  # left over, if the last one was interrupted
    scratch.mkdir()
    try:
        model = write_first_layers(ours, scratch, num_layers)
        return mcore.trace(scratch, model, tokens, dtype)
    finally:
        remove_tree(scratch, first=MANIFEST_NAME)
