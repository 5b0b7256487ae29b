"""Pictures on a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_disk import small_disk

from harness.cli import run

pytest.importorskip("matplotlib")


def test_a_full_disk_is_one_line_and_leaves_no_half_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Path(__file__).parents[1] / "model_configs" / "tiny_phases.yaml"
    with small_disk(tmp_path / "disk", 16):
        assert run(["plan", str(config), "--plot", str(tmp_path / "disk" / "plan.png")]) == 65
        text = capsys.readouterr().err
        assert text.count("harness: error: ") == 1 and "Traceback" not in text
        assert "plan.png: cannot be written: No space left on device. Make room, or name another file." in text
        assert list((tmp_path / "disk").iterdir()) == []
    assert run(["plan", str(config), "--plot", str(tmp_path / "nowhere" / "plan.png")]) == 64
