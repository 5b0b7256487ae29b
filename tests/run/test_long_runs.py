"""Metrics of very long runs: what is read of them, and how much of it is kept at a time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from metric_samples import record

from harness.run import lines
from harness.run.records import hidden_records, last_key, read_records, to_json_line, whole_records

STEPS = 4_000
MIB = 1024**2


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four thousand steps, 6 MiB in all, and a short start in between that went on from step 10."""
    path = tmp_path_factory.mktemp("long") / "metrics.jsonl"
    values = {f"train/lm_loss/channel_{number:03d}": 3.0 for number in range(45)}
    head, _, tail = to_json_line(record(1, **values)).partition('"step": 1,')
    with path.open("w") as file:
        file.writelines(f'{head}"step": {step},{tail}' for step in range(1, STEPS + 1))
        file.writelines(
            to_json_line(record(step, **values)).replace('"attempt": 0', '"attempt": 1') for step in (11, 12)
        )
    return path


def consumed(found: Iterator[object]) -> int:
    return sum(1 for _ in found)


def kept(call: Callable[[], object]) -> tuple[object, int]:
    """The result of a call, and how much memory it took at most."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda path: last_key(path, up_to_step=10), (0, 10)),
        (lambda path: last_key(path), (1, 12)),
        (lambda path: consumed(whole_records(path)), STEPS + 2),
        (lambda path: consumed(read_records(path)), 12),
        (lambda path: consumed(hidden_records(path, attempt=0, step=STEPS)), STEPS - 10),
    ],
    ids=["far back", "the last", "as written", "that count", "to write again"],
)
def test_a_long_run_is_read_in_little_memory(metrics: Path, call: Callable[[Path], object], expected: object) -> None:
    assert metrics.stat().st_size > 6 * MIB
    found, num_bytes = kept(lambda: call(metrics))
    assert found == expected
    assert num_bytes < 4 * MIB


def test_the_newest_record_is_found_without_reading_the_others(metrics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_read = 0

    class Counted:
        def __init__(self, path: Path) -> None:
            self._file = path.open("rb")

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def seek(self, *place: int) -> int:
            return self._file.seek(*place)

        def read(self, size: int) -> bytes:
            nonlocal num_read
            num_read += size
            return self._file.read(size)

    monkeypatch.setattr(lines, "open_lines", Counted)
    assert last_key(metrics) == (1, 12)
    assert num_read <= MIB
