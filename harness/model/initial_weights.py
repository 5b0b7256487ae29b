"""Initial weights that depend on the seed and the parameter, not on how the model is cut over ranks.

Every parameter is drawn whole, from a generator seeded by (seed, name of the parameter in the whole model), and each
rank keeps its part; one of experts is drawn expert by expert. Drawing more than is kept costs seconds once, and gives
equal losses under every layout.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import xxhash

from harness.config.model import ModelConfig
from harness.parallel.ranks import Place, Ranks
from harness.parameters.names import EMBEDDING, OUTPUT, in_layer, split_layer
from harness.parameters.parameter import Cut, Parameter
from harness.parameters.table import find_parameter


def whole_name(name: str, first_layer: int, model: ModelConfig) -> str:
    """Return the parameter's name in the whole model.

    Layers are counted from 0 over all stages. A tied output layer is the embedding, so that both ends of a pipeline
    start with equal weights.
    """
    if name == OUTPUT and not model.untie_embeddings_and_output_weights:
        return EMBEDDING
    layer, rest = split_layer(name)
    return name if layer is None else in_layer(first_layer + layer, rest)


def part_of(whole: torch.Tensor, cut: Cut | None, tp: Place) -> torch.Tensor:
    """The part of a whole parameter that one of the ranks that share it holds."""
    if cut is None or tp.size == 1:
        return whole
    blocks = whole.chunk(cut.num_blocks, dim=cut.dim)
    return torch.cat([block.chunk(tp.size, dim=cut.dim)[tp.rank] for block in blocks], dim=cut.dim)


@torch.no_grad()
def fill(
    parameters: Iterable[tuple[str, torch.Tensor]], model: ModelConfig, *, seed: int, first_layer: int, ranks: Ranks
) -> None:
    """Fill the parameters of one model chunk (its `named_parameters()`) in place, with the part of this rank.

    `first_layer` is the number of the chunk's first layer in the whole model, from 0.
    """
    for local_name, tensor in parameters:
        parameter = find_parameter(whole_name(local_name, first_layer, model), model)
        initial = parameter.initial
        if initial.deviation == 0.0:
            tensor.fill_(initial.mean)
            continue
        if parameter.num_experts is None:
            own = part_of(_drawn(parameter, seed, tensor.device), parameter.cut, ranks.tp)
        else:
            num_own = parameter.num_experts // ranks.ep.size
            experts = range(ranks.ep.rank * num_own, (ranks.ep.rank + 1) * num_own)
            drawn = (_drawn(parameter, seed, tensor.device, expert=expert) for expert in experts)
            own = torch.cat([part_of(each, parameter.cut, ranks.etp) for each in drawn])
        assert own.shape == tensor.shape, (
            f"{local_name} has the shape {list(tensor.shape)}, the table {list(own.shape)}"
        )
        tensor.copy_(own)


def _drawn(parameter: Parameter, seed: int, device: torch.device, *, expert: int | None = None) -> torch.Tensor:
    """Draw a whole parameter, or one expert of it: `[1, …]`, fp32."""
    name, shape = parameter.name, parameter.shape
    if expert is not None:
        name, shape = f"{name}/{expert}", (1, *shape[1:])
    generator = torch.Generator(device=device)
    generator.manual_seed(xxhash.xxh3_64_intdigest(f"{seed}/{name}".encode()) >> 1)
    whole = torch.zeros(shape, dtype=torch.float32, device=device)
    # Only true tokens are drawn, so that padding the vocabulary changes nothing but rows of zeros.
    initial = parameter.initial
    whole[: parameter.num_true_rows].normal_(initial.mean, initial.deviation, generator=generator)
    return whole
