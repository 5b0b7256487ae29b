"""A corpus of 10,000 parts and a trillion tokens: one synthetic part linked under many names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.blend import (
    DOCUMENTS_PER_PART,
    GLOBAL_BATCH_SIZE,
    LARGE_PARTS,
    LARGE_TOKENS,
    SEEK_STEP,
    in_fresh_process,
    make_corpus,
)
from benchmarks.data import write_part


@pytest.mark.slow
def test_it_starts_in_seconds_with_little_memory_and_reaches_a_late_step_at_once(tmp_path: Path) -> None:
    write_part(tmp_path / "part", DOCUMENTS_PER_PART, -(-LARGE_TOKENS // LARGE_PARTS // DOCUMENTS_PER_PART))
    make_corpus(tmp_path / "corpus", LARGE_PARTS // 2, tmp_path / "part", DOCUMENTS_PER_PART)
    lines = (tmp_path / "corpus" / "zh" / "parts.jsonl").read_text().splitlines()
    assert 2 * sum(json.loads(line)["tokens"] for line in lines) == pytest.approx(LARGE_TOKENS, rel=0.01)
    found = in_fresh_process("ours", tmp_path / "corpus", SEEK_STEP * GLOBAL_BATCH_SIZE)
    assert found["start_s"] < 10
    assert found["seek_s"] < 5
    assert found["gib"] < 0.25, "beyond what torch and Megatron take"
