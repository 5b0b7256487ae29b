"""What rank 0 does alone on a shared disk is waited for outside of collectives, and shared where it is much."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds_of_scale
from pool import Pool
from torch.distributed import HashStore  # type: ignore[attr-defined]  # torch lists none

from harness.parallel import errands
from harness.parallel.errands import Errands
from harness.parallel.ranks import Place
from harness.train.components.findings import shares


@pytest.mark.slow
def test_nobody_waits_for_rank_0_in_a_collective(pool: Pool) -> None:
    leader, helper = pool.run(worlds_of_scale.wait_for_rank_0, 2, True)
    assert leader == "[{0: 2, 1: 20}, {1: 50}]"
    assert helper == "[2, 5]"


@pytest.mark.slow
def test_in_a_collective_the_others_give_up(pool: Pool) -> None:
    answers = pool.run(worlds_of_scale.wait_for_rank_0, 2, False)
    assert answers[1].startswith("failed: ")


@pytest.mark.slow
def test_each_rank_hashes_its_share(pool: Pool, tmp_path: Path) -> None:
    names = sorted(f"__{rank}_0.distcp" for rank in range(6))
    for name in names:
        (tmp_path / name).write_bytes(name.encode())
    answers = pool.run(worlds_of_scale.hash_together, 4, tmp_path)
    assert [read for read, _ in answers] == [names[0::4], names[1::4], names[2::4], names[3::4]]
    assert answers[0][1] == names
    assert [found for _, found in answers[1:]] == [[]] * 3


@pytest.mark.slow
def test_a_refusal_of_any_rank_is_rank_0s(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").mkdir()
    answers = pool.run(worlds_of_scale.hash_together, 2, tmp_path)
    assert isinstance(answers[0][1], str), "rank 1 was refused, and rank 0 has the error"
    assert answers[0][1].endswith(": b")
    assert answers[1][1] == []


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 16384])
def test_every_rank_is_dismissed_once_and_nobody_tells_more_than_two(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = HashStore()
    monkeypatch.setattr(errands, "_get_default_store", lambda: store)
    dismissed, told = [0], [0]
    while told:
        rank = told.pop()
        before = store.num_keys()
        Errands(Place(rank=rank, size=size))._dismiss()
        assert store.num_keys() - before <= 4, "two keys for each that is told"
        told += [other for other in (2 * rank + 1, 2 * rank + 2) if other < size]
        dismissed += [other for other in (2 * rank + 1, 2 * rank + 2) if store.check([f"errands/errand/{other}/1"])]
    assert sorted(dismissed) == list(range(size))


def test_shares_are_even() -> None:
    assert shares(["b", "a", "c"], 2) == {0: ["a", "c"], 1: ["b"]}
    assert shares(["a"], 4) == {0: ["a"]}
    assert shares([], 4) == {}
    sizes = [len(part) for part in shares([str(number) for number in range(16384)], 1024).values()]
    assert sizes == [16] * 1024
