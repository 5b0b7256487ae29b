"""Ranks and groups of a layout, and the collectives by which ranks agree."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
import torch
import worlds
from pool import Pool

from harness.parallel.ranks import Place, Ranks
from harness.plan.layouts import Layout


def layout(*, tensor: int = 1, pipeline: int = 1, virtual: int = 1, data: int = 1) -> Layout:
    return Layout(tensor=tensor, pipeline=pipeline, virtual_pipeline=virtual, context=1, data=data)


LAYOUTS = {
    "tp2-pp2": layout(tensor=2, pipeline=2),
    "tp2-dp2": layout(tensor=2, data=2),
    "pp2-dp2": layout(pipeline=2, data=2),
    "pp2-vp2": layout(pipeline=2, virtual=2),
    "dp2": layout(data=2),
    "one-rank": layout(),
}


@pytest.mark.parametrize("grid", LAYOUTS.values(), ids=LAYOUTS)
def test_every_place_of_the_grid_is_taken_once(grid: Layout, pool: Pool) -> None:
    found: list[Ranks] = pool.run(worlds.places, grid.world_size, grid)
    assert [ranks.world for ranks in found] == [Place(rank=n, size=grid.world_size) for n in range(grid.world_size)]
    assert {(ranks.tp.size, ranks.pp.size, ranks.dp.size, ranks.cp.size) for ranks in found} == {
        (grid.tensor, grid.pipeline, grid.data, 1)
    }
    assert len({(ranks.tp.rank, ranks.pp.rank, ranks.dp.rank) for ranks in found}) == grid.world_size
    assert [ranks.is_writer for ranks in found] == [True] + [False] * (grid.world_size - 1)


@pytest.mark.parametrize("grid", LAYOUTS.values(), ids=LAYOUTS)
def test_every_data_parallel_share_of_the_loss_is_counted_once(grid: Layout, pool: Pool) -> None:
    found: list[Ranks] = pool.run(worlds.places, grid.world_size, grid)
    counting = Counter(ranks.dp.rank for ranks in found if ranks.counts_loss)
    assert counting == {rank: 1 for rank in range(grid.data)}
    assert all(ranks.pp.is_last for ranks in found if ranks.counts_loss)


def test_stages_in_the_middle_read_no_tokens() -> None:
    one = Place(rank=0, size=1)
    reads = [Ranks(world=one, tp=one, pp=Place(rank=stage, size=4), dp=one, cp=one).reads_tokens for stage in range(4)]
    assert reads == [True, False, False, True]


def test_ranks_agree(pool: Pool) -> None:
    found = pool.run(worlds.agreements, 3)
    assert [answer["sum"] for answer in found] == [[3.0, 30.0]] * 3
    assert [answer["max"] for answer in found] == [[2.0, 20.0]] * 3
    assert [answer["from_rank_0"] for answer in found] == [{"of": 0}] * 3
    assert [answer["gathered"] for answer in found] == [["rank 0", "rank 1", "rank 2"]] * 3


def test_a_machine_without_a_gpu_answers_with_its_cpu(pool: Pool) -> None:
    """Megatron asks for CUDA devices, streams and memory; what it makes lies on the CPU."""
    found = pool.run(worlds.cuda_answers, 1)[0]
    assert found == {
        "current_device": "cpu",
        "factory": "cpu",
        "to": "cpu",
        "cuda": "cpu",
        "type": "torch.cuda.FloatTensor",
        "memory_allocated": 0,
        "stream": 1.0,
        "same_random_numbers": True,
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU Megatron compiles its functions")
def test_a_trainer_without_a_gpu_starts_without_the_compiler() -> None:
    """Loading it takes as long as the rest of a start; whoever asks for it later gets it."""
    program = "import harness.train.main, sys, torch; print('torch._dynamo' in sys.modules, torch.compile.__module__)"
    started = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    assert started.stdout == "False torch\n"
