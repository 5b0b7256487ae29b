"""Initial weights that depend on the seed and the parameter, not on how the model is cut over ranks.

Every parameter is drawn whole, from a generator seeded by (seed, name of the parameter in the whole model), and each
rank keeps its part. Drawing more than is kept costs seconds once, and gives equal losses under every layout.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import xxhash

from harness.config.schema import ModelConfig
from harness.parallel.ranks import Place

EMBEDDING = "embedding.word_embeddings.weight"
OUTPUT = "output_layer.weight"
_LAYER = re.compile(r"^decoder\.layers\.(\d+)\.")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The cut of a parameter over the tensor-parallel ranks."""

    dim: int | None
    """Dimension that is cut; None if every rank has all of it."""
    num_blocks: int = 1
    """Number of blocks along `dim` that are each cut on their own (gate and up projection in one tensor: 2)."""


def whole_name(name: str, first_layer: int, model: ModelConfig) -> str:
    """Return the parameter's name in the whole model.

    Layers are counted from 0 over all stages. A tied output layer is the embedding, so that both ends of a pipeline
    start with equal weights.
    """
    if name == OUTPUT and not model.untie_embeddings_and_output_weights:
        return EMBEDDING
    return _LAYER.sub(lambda match: f"decoder.layers.{int(match.group(1)) + first_layer}.", name)


def cut_of(name: str, model: ModelConfig) -> Cut:
    """Return Megatron's cut of the parameter of that name."""
    if _is_norm(name):
        return Cut(dim=None)
    if name in (EMBEDDING, OUTPUT) or ".linear_qkv." in name:
        return Cut(dim=0)
    if ".linear_fc1." in name:
        return Cut(dim=0, num_blocks=2 if model.gated else 1)
    if name.endswith((".linear_proj.weight", ".linear_fc2.weight")):
        return Cut(dim=1)
    return Cut(dim=None)


def standard_deviation(name: str, model: ModelConfig) -> float | None:
    """Return the standard deviation of a matrix's normal distribution; None for norms (ones) and biases (zeros)."""
    if name.endswith("bias") or _is_norm(name):
        return None
    if name.endswith((".linear_proj.weight", ".linear_fc2.weight")):
        return model.init_method_std / math.sqrt(2 * model.num_layers)  # GPT-2's scaling of residual projections
    return model.init_method_std


def _is_norm(name: str) -> bool:
    """Return whether a parameter belongs to a norm.

    Transformer Engine's norms are part of the product after them (`layer_norm_weight`).
    """
    return "layernorm" in name or ".layer_norm_" in name


def part_of(whole: torch.Tensor, cut: Cut, tp: Place) -> torch.Tensor:
    """Return one tensor-parallel rank's part of a whole parameter."""
    if cut.dim is None or tp.size == 1:
        return whole
    blocks = whole.chunk(cut.num_blocks, dim=cut.dim)
    return torch.cat([block.chunk(tp.size, dim=cut.dim)[tp.rank] for block in blocks], dim=cut.dim)


@torch.no_grad()
def fill(
    parameters: Iterable[tuple[str, torch.Tensor]], model: ModelConfig, *, seed: int, first_layer: int, tp: Place
) -> None:
    """Fill the parameters of one model chunk in place.

    Args:
        parameters: Local names and tensors, as `named_parameters()` gives them.
        model: The model.
        seed: `run.seed`.
        first_layer: Number of the chunk's first layer in the whole model, from 0.
        tp: This rank in its tensor-parallel group.
    """
    for local_name, parameter in parameters:
        name = whole_name(local_name, first_layer, model)
        deviation = standard_deviation(name, model)
        if deviation is None:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        cut = cut_of(name, model)
        shape = list(parameter.shape)
        if cut.dim is not None:
            shape[cut.dim] *= tp.size
        generator = torch.Generator(device=parameter.device)
        generator.manual_seed(xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()) >> 1)
        whole = torch.zeros(shape, dtype=torch.float32, device=parameter.device)
        # Only true tokens are drawn, so that padding the vocabulary changes nothing but rows of zeros.
        drawn = whole[: model.vocab_size] if name in (EMBEDDING, OUTPUT) else whole
        drawn.normal_(0.0, deviation, generator=generator)
        parameter.copy_(part_of(whole, cut, tp))
