"""A start of training passes over checkpoints whose index names what it must not, and says so."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hostile_indexes import fit_manifest, halves_that_overlap, of_place, rewrite_index
from process_runs import Site

from harness.run.checkpoints.manifest import read_manifest, write_manifest


def forged(checkpoint: Path, step: int) -> Path:
    """A copy of a checkpoint that says that it is of a later step."""
    copy = Path(shutil.copytree(checkpoint, checkpoint.with_name(f"step_{step:07d}")))
    write_manifest(copy, read_manifest(copy).model_copy(update={"step": step}))
    return copy


@pytest.mark.slow
def test_hostile_indexes_are_passed_over(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.config["run"]["stop_at_step"] = 1
    code, text = site.train().finish()
    assert code == 0, text
    sound = site.run_dir.checkpoint(1)
    above, overlapping, bomb = (forged(sound, step) for step in (2, 3, 4))
    os.mkfifo(tmp_path / "x.distcp")
    rewrite_index(above, of_place(relative_path="../../../x.distcp"))
    rewrite_index(overlapping, halves_that_overlap)
    (bomb / ".metadata").write_bytes(b"\x80\x04\x8e" + (2**40).to_bytes(8, "little"))
    fit_manifest(bomb)

    site.config["run"]["stop_at_step"] = 2
    code, text = site.train("--resume", "auto").finish()
    assert code == 0, text
    assert "Traceback" not in text
    assert f"passed over {bomb}: its .metadata is damaged: it holds the instruction 0x8e" in text
    assert f"passed over {overlapping}: the chunks of " in text
    assert f"passed over {above}: the chunk of " in text

    shutil.rmtree(sound)
    for later in site.run_dir.checkpoints.glob("step_0000002.*"):
        shutil.rmtree(later)
    code, text = site.train("--resume", "must").finish()
    assert code == 65, text
    assert "can be resumed from" in text
    assert "Traceback" not in text
