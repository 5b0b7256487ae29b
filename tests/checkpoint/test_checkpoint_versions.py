"""Checkpoints of another megatron-core than the one that is installed."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from harness.errors import CheckpointError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Megatron warns of every optional package that is missing
    import megatron.core

    from harness.checkpoint.loading import mcore as checkpoint_files


@pytest.mark.skipif(not checkpoint_files.HAS_COMMON_FILE, reason="this megatron-core needs no common.pt")
def test_what_only_a_later_megatron_core_can_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as refused:
        checkpoint_files._require_readable(tmp_path)
    assert str(refused.value) == (
        f"{tmp_path} has no common.pt, which megatron-core {megatron.core.__version__} cannot do without; later "
        "versions (0.19, on Python 3.12) write none. Read it with the megatron-core that wrote it: "
        f"`harness checkpoint inspect {tmp_path}` names the version."
    )
