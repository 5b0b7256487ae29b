"""Muon on sharded state: torch's own to the bit on one rank, and the same under every layout."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import muon_jobs
import pytest
import torch
from pool import Pool
from torch.optim import _muon as torchs

from harness.config.schema import Config
from harness.optim.muon.orthogonal import each_orthogonalized, orthogonalized, projection_scales
from harness.optim.muon.sharing import Matrix, Share, rounds_of
from harness.parameters.table import parameter_table

NUM_STEPS = 3
MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "ffn_hidden_size": 48,
    "vocab_size": 100,
}
EXPERTS = MODEL | {
    "num_moe_experts": 4,
    "moe_layer_freq": [0, 1],
    "moe_ffn_hidden_size": 40,
    "moe_shared_expert_intermediate_size": 24,
    "moe_shared_expert_gate": True,
}


def config(model: dict[str, Any], layout: dict[str, Any] | None = None, **optimizer: Any) -> Config:
    return Config.model_validate(
        {
            "run": {"name": "x"},
            "model": model,
            "parallel": layout or {},
            "data": {"channels": {"zh": {"path": "zh"}}},
            "phases": [{"name": "main", "train_steps": 9, "seq_length": 8, "global_batch_size": 4, "blend": {"zh": 1}}],
            "optimizer": {"kind": "muon", "learning_rate": 0.05, "clip_grad": 0.0, **optimizer},
            "precision": {"dtype": "fp32"},
        }
    )


@pytest.mark.parametrize("shape", [(24, 24), (16, 40), (40, 16), (1, 32)])
def test_iteration_is_torchs(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = torchs._zeropower_via_newtonschulz(
        matrix, (torchs.DEFAULT_A, torchs.DEFAULT_B, torchs.DEFAULT_C), 5, torchs.EPS
    )
    assert torch.equal(orthogonalized(matrix.bfloat16(), 5), expected)
    singular = torch.linalg.svdvals(orthogonalized(matrix, 5))
    assert float(singular.min()) > 0.3
    assert float(singular.max()) < 1.3
    assert orthogonalized(torch.zeros(shape), 5).count_nonzero() == 0


def test_each_projection_is_made_orthogonal_alone() -> None:
    """Two groups of four rows of queries, two of a key, two of a value."""
    matrix = torch.randn((16, 12), generator=torch.Generator().manual_seed(2))
    found = each_orthogonalized(matrix, (4, 2, 2), 5).view(2, 8, 12)
    grouped = matrix.view(2, 8, 12)
    for rows in (slice(0, 4), slice(4, 6), slice(6, 8)):
        alone = orthogonalized(grouped[:, rows].reshape(-1, 12), 5)
        torch.testing.assert_close(found[:, rows].reshape(-1, 12), alone)


def test_scales_are_those_of_megatron() -> None:
    assert projection_scales(16, 12, (4, 2, 2), "spectral") == (math.sqrt(12),) * 3
    assert projection_scales(64, 16, (16, 8, 8), "spectral") == (math.sqrt(32), 4, 4)
    assert projection_scales(64, 16, (64,), "shape_scaling") == (2.0,)
    assert projection_scales(16, 64, (16,), "shape_scaling") == (1.0,)
    assert projection_scales(16, 64, (16,), "unit_rms_norm") == (0.5,)


def matrix(name: str, *ranks: int, rows: int = 8) -> Matrix:
    """One that data-parallel ranks share."""
    size = rows * 8 // len(ranks)
    return Matrix(
        name=name,
        expert=None,
        rows=rows,
        columns=8,
        projections=(rows,),
        cut=None,
        num_parts=1,
        shares={
            rank: Share(part=0, begin=number * size, end=(number + 1) * size, is_copy=False)
            for number, rank in enumerate(ranks)
        },
    )


def test_owners_share_the_work_and_hold_what_they_own() -> None:
    spread = [matrix(f"m{number:02}", *range(4)) for number in range(15)]
    alone = [matrix("alone", 2)]
    rounds = rounds_of([*spread, *alone], 4, most_numbers=128)
    owned = [each for exchange in rounds for each in exchange]
    assert sorted(each.matrix.name for each in owned) == [each.name for each in spread]
    assert Counter(each.owner for each in owned) == {0: 4, 1: 4, 2: 3, 3: 4}
    assert all(each.owner in each.matrix.shares for each in owned)
    for exchange in rounds:
        assert [each.owner for each in exchange] == sorted(each.owner for each in exchange)
        assert max(Counter(each.owner for each in exchange).values()) <= 2, "128 numbers are two matrices"
    assert rounds_of([matrix("large", 0, 1, rows=64)], 2, most_numbers=8)[0][0].matrix.name == "large"
    assert rounds_of(alone, 4) == ()


class Piece(NamedTuple):
    """A projection: rows of a parameter, or of one expert of it."""

    name: str
    expert: int | slice
    rows: torch.Tensor

    def of(self, whole: dict[str, torch.Tensor]) -> torch.Tensor:
        return whole[self.name][self.expert].reshape(-1, whole[self.name].shape[-1])[self.rows]


def pieces_of(made: Config) -> list[Piece]:
    found = []
    for parameter in parameter_table(made.model):
        experts = range(parameter.num_experts) if parameter.num_experts else [slice(None)]
        for expert in experts if parameter.projections else []:
            rows = torch.arange(parameter.shape[-2]).view(-1, sum(parameter.projections))
            parts = torch.split(rows, list(parameter.projections), dim=1)
            found += [Piece(parameter.name, expert, part.flatten()) for part in parts]
    return found


def torchs_update(made: Config, weights: dict[str, torch.Tensor], steps: int) -> dict[str | int, torch.Tensor]:
    """Weights after updates by torch's own optimizers: projections by number, other parameters by name."""
    settings, pieces = made.optimizer, pieces_of(made)
    table = {parameter.name: parameter for parameter in parameter_table(made.model)}
    hidden = [torch.nn.Parameter(piece.of(weights).clone()) for piece in pieces]
    others = {name: torch.nn.Parameter(weights[name].clone()) for name in weights if not table[name].projections}
    first = torch.optim.Muon(
        hidden,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        momentum=settings.muon_momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    second = torch.optim.AdamW(
        [{"params": [p], "weight_decay": settings.weight_decay * table[name].decays} for name, p in others.items()],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_eps,
        fused=True,
    )
    for step in range(steps):
        gradients = {name: muon_jobs.whole_gradient(name, table[name].shape, step) for name in weights}
        for piece, parameter in zip(pieces, hidden, strict=True):
            parameter.grad = piece.of(gradients)
        for name, other in others.items():
            other.grad = gradients[name]
        first.step()
        second.step()
    return {**dict(enumerate(hidden)), **others}


@pytest.mark.parametrize("model", [MODEL, EXPERTS], ids=["dense", "experts"])
def test_one_rank_updates_as_torch_does(model: dict[str, Any], pool: Pool) -> None:
    """Every projection of every expert is a matrix to torch.optim.Muon, and all else is AdamW's."""
    made = config(model, muon_fp32_matmul_prec="medium")
    ((_, seen, _),) = pool.run(muon_jobs.updated, 1, made, NUM_STEPS)
    pieces = dict(enumerate(pieces_of(made)))
    for key, expected in torchs_update(made, seen[0], NUM_STEPS).items():
        before, after = (pieces[key].of(each) if isinstance(key, int) else each[key] for each in (seen[0], seen[-1]))
        assert torch.equal(after, expected), pieces.get(key, key)
        assert not torch.equal(before, after), pieces.get(key, key)


LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {"data_parallel_size": 2},
    "tp2": {"tensor_model_parallel_size": 2},
    "tp2-dp2": {"tensor_model_parallel_size": 2, "data_parallel_size": 2},
    "pp2-dp2": {"pipeline_model_parallel_size": 2, "data_parallel_size": 2},
}
OF_EXPERTS: dict[str, dict[str, Any]] = {
    "dp2": {"data_parallel_size": 2},
    "ep2-of-dp4": {"data_parallel_size": 4, "expert_model_parallel_size": 2},
    "tp2-dp2-ep2-etp1": {
        "tensor_model_parallel_size": 2,
        "data_parallel_size": 2,
        "expert_model_parallel_size": 2,
        "expert_tensor_parallel_size": 1,
        "sequence_parallel": True,
    },
    "etp2-dp4": {"data_parallel_size": 4, "expert_tensor_parallel_size": 2},
}
CASES = [
    *(pytest.param(MODEL, layout, {}, id=name) for name, layout in LAYOUTS.items()),
    *(pytest.param(EXPERTS, layout, {}, id=f"experts-{name}") for name, layout in OF_EXPERTS.items()),
    # Queries are wider than the others, so that rows of one matrix have several factors.
    pytest.param(
        MODEL | {"kv_channels": 32},
        LAYOUTS["tp2-dp2"],
        {"muon_scale_mode": "unit_rms_norm", "muon_nesterov": False},
        id="several-factors",
    ),
    pytest.param(MODEL, LAYOUTS["tp2-dp2"], {"muon_split_qkv": False}, id="one-matrix-of-qkv"),
]


OneRank = Callable[..., Any]


@pytest.fixture(scope="module")
def one_rank(pool: Pool) -> OneRank:
    """Updates on one rank of a model with settings of the optimizer, made when they are asked for first."""
    made: dict[str, Any] = {}

    def run(model: dict[str, Any], optimizer: dict[str, Any]) -> Any:
        key = repr((model, optimizer))
        if key not in made:
            ((_, *made[key]),) = pool.run(muon_jobs.updated, 1, config(model, **optimizer), NUM_STEPS)
        return made[key]

    return run


@pytest.mark.parametrize(("model", "layout", "optimizer"), CASES)
def test_every_layout_updates_as_one_rank_does(
    model: dict[str, Any], layout: dict[str, Any], optimizer: dict[str, Any], pool: Pool, one_rank: OneRank
) -> None:
    alone, norms = one_rank(model, optimizer)
    made = config(model, layout, **optimizer)
    size = math.prod(
        layout.get(f"{axis}_size", 1) for axis in ("tensor_model_parallel", "pipeline_model_parallel", "data_parallel")
    )
    seen_names = set()
    for ranks, seen, own_norms in pool.run(muon_jobs.updated, size, made, NUM_STEPS):
        assert own_norms == pytest.approx(norms, rel=1e-6)
        for name, weight in seen[-1].items():
            expected = muon_jobs.own_part(alone[-1][name], name, made, ranks)
            torch.testing.assert_close(weight, expected, rtol=1e-6, atol=1e-7, msg=f"{name} of rank {ranks.world.rank}")
            seen_names.add(name)
    assert seen_names == alone[-1].keys()


def test_a_matrix_has_one_average_and_other_parameters_two(pool: Pool) -> None:
    """The norm of the second average is of what AdamW updates."""
    made = config(MODEL)
    ((_, seen, norms),) = pool.run(muon_jobs.updated, 1, made, 1)
    squares = {True: 0.0, False: 0.0}
    for parameter in parameter_table(made.model):
        gradient = muon_jobs.whole_gradient(parameter.name, parameter.shape, 0).double()
        share = 1 - (made.optimizer.muon_momentum if parameter.is_matrix else made.optimizer.adam_beta1)
        squares[True] += float((share * gradient).square().sum())
        if not parameter.is_matrix:
            squares[False] += float(((1 - made.optimizer.adam_beta2) * gradient.square()).square().sum())
    assert norms["exp_avg"] == pytest.approx(math.sqrt(squares[True]), rel=1e-5)
    assert norms["exp_avg_sq"] == pytest.approx(math.sqrt(squares[False]), rel=1e-5)
    assert seen[0].keys() == seen[1].keys()
