"""Attention of ranks that share samples: what each computes is its part of what one rank computes, gradients too."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import sharing_jobs
import torch
from pool import Pool
from test_attention_rules import RULES, written_out

from harness.model import context
from harness.model.attention import core, tiles
from harness.model.attention.bounds import Sequences, Stretch, stretches_of
from harness.model.attention.core import attend_in_samples, attend_stretch
from harness.model.attention.rules import Rules
from harness.parallel.ranks import Place

S, B, N, D = 24, 2, 4, 8
BORDERS = {
    "samples": [0, S, 2 * S],
    "documents": [0, 3, 9, 11, 12, S, S + 1, S + 20, 2 * S],
    "one-of-all": [0, S, *range(S + 1, 2 * S + 1)],
}


def inputs(groups: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(groups)
    return [torch.randn(S, B, heads, D, generator=generator) for heads in (N, groups, groups)]


def gradients_of(attend: Callable[..., torch.Tensor], parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """The output, and the gradient of each input for a gradient of the output that is drawn."""
    return sharing_jobs.gradients_of(attend, parts, sharing_jobs.drawn(parts[0].shape))


def of_all_ranks(num_ranks: int, borders: list[int], rules: Rules, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    """What `attend_stretch` gives for each rank's stretches, put in order."""
    sinks_N = parts[3] if len(parts) > 3 else None

    def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_sinks: torch.Tensor) -> torch.Tensor:
        outputs = []
        for rank in range(num_ranks):
            place = Place(rank=rank, size=num_ranks)
            own = context.own_part(query.transpose(0, 1), place).transpose(0, 1)
            for stretch in stretches_of(S, B, place, borders):
                outputs.append(attend_stretch(own[stretch.rows], key, value, stretch, rules, *_sinks or (sinks_N,)))
        return context.in_order(torch.cat(outputs), num_ranks)

    return gradients_of(attend, parts)


@pytest.mark.parametrize("with_sinks", [False, True], ids=["no-sinks", "sinks"])
@pytest.mark.parametrize("borders", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["plain", "window", "cap", "all"])
def test_the_stretches_of_all_ranks_are_the_whole(
    name: str, num_ranks: int, borders: list[int], with_sinks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_FEWEST_QUERIES", 4)
    rules = RULES.get(name, Rules())
    parts = [*inputs(2), *([torch.linspace(-1.0, 2.0, N)] if with_sinks else [])]

    def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        attended = written_out(query, key, value, rules, sinks[0] if sinks else None, borders)
        return attended.view(S, B, N, D)

    for found, expected in zip(of_all_ranks(num_ranks, borders, rules, parts), gradients_of(exact, parts), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=5e-6)


def one_by_one(
    query_TND: torch.Tensor,
    key_TGD: torch.Tensor,
    value_TGD: torch.Tensor,
    sequences: Sequences,
    rules: Rules,
    sinks_N: torch.Tensor | None,
) -> torch.Tensor:
    """What FlashAttention computes for sequences of fewer queries than keys."""
    queries, keys = (itertools.pairwise(bounds.starts.tolist()) for bounds in (sequences.queries, sequences.keys))
    outputs = []
    for (begin, end), (first, last) in zip(queries, keys, strict=True):
        assert end - begin <= sequences.queries.longest
        assert last - first <= sequences.keys.longest
        own = (query_TND[begin:end, None], key_TGD[first:last, None], value_TGD[first:last, None])
        outputs.append(core._in_tiles(*own, rules, sinks_N)[:, 0])
    assert (end, last) == (len(query_TND), len(key_TGD))
    return torch.cat(outputs)


@pytest.mark.parametrize("borders", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_gpu_is_told_the_same_sequences(num_ranks: int, borders: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = of_all_ranks(num_ranks, borders, Rules(window=5), inputs(2))
    monkeypatch.setattr(core, "_takes_flash", lambda *_: True)
    monkeypatch.setattr(core, "attend_in_one_launch", one_by_one)
    for found, wanted in zip(of_all_ranks(num_ranks, borders, Rules(window=5), inputs(2)), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_every_rank_has_the_same_work(num_ranks: int) -> None:
    """Pairs of a query and a key that it sees, in samples that are one document each."""

    def pairs(stretch: Stretch) -> int:
        pieces = [piece for of_sample in stretch.pieces_by_sample for piece in of_sample]
        return sum(queries * keys - queries * (queries - 1) // 2 for queries, keys in pieces)

    work = {sum(map(pairs, stretches_of(S, B, Place(rank=rank, size=num_ranks)))) for rank in range(num_ranks)}
    assert len(work) == 1
    assert num_ranks * work.pop() == B * S * (S + 1) // 2


@pytest.mark.parametrize("borders", [None, BORDERS["documents"]], ids=["samples", "documents"])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("way", ["allgather", "a2a"])
def test_ranks_compute_their_parts(way: str, groups: int, borders: list[int] | None, pool: Pool) -> None:
    rules, parts = RULES["all"], [*inputs(groups), torch.linspace(-1.0, 2.0, N)]
    documents = None if borders is None else sharing_jobs.documents_of(borders)
    whole = gradients_of(lambda *x: attend_in_samples(*x[:3], documents, rules, x[3]), parts)
    of_ranks = pool.run(sharing_jobs.shared_attention, 2, way, parts, borders, rules)
    for number, expected in enumerate(whole):
        found = [torch.from_numpy(gradients[number]) for gradients in of_ranks]
        together = sum(found) if number == len(whole) - 1 else context.in_order(torch.cat(found), 2)
        torch.testing.assert_close(together, expected, rtol=1e-5, atol=5e-6)
