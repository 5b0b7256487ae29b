"""A checkpoint whose shard holds more than numbers runs nothing, even if its manifest fits."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from process_runs import Site

from harness.run.checkpoints.contents import file_records
from harness.run.checkpoints.manifest import read_manifest, write_manifest
from harness.run.checkpoints.stored_index import read_index


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, trap: Path) -> None:
        self._trap = trap

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._trap),)


def objects_in(checkpoint: Path) -> list[tuple[Path, int, int]]:
    """File, offset and length of every pickled object."""
    places = read_index(checkpoint).objects.values()
    return [(checkpoint / place.file, place.offset, place.length) for place in places]


@pytest.mark.slow
def test_an_object_that_names_a_function_is_not_run(tmp_path: Path) -> None:
    site, trap = Site(tmp_path), tmp_path / "t"
    site.config["run"]["stop_at_step"] = 1
    code, text = site.train().finish()
    assert code == 0, text
    checkpoint = site.run_dir.checkpoint(1)
    payload = pickle.dumps(Hostile(trap))
    places = objects_in(checkpoint)
    assert places
    for path, offset, length in places:
        assert len(payload) <= length
        content = bytearray(path.read_bytes())
        content[offset : offset + length] = payload.ljust(length, b"\0")
        path.write_bytes(content)
    manifest = read_manifest(checkpoint)
    write_manifest(checkpoint, manifest.model_copy(update={"files": file_records(checkpoint, manifest.files)}))

    site.config["run"]["stop_at_step"] = 2
    code, text = site.train().finish()
    assert not trap.exists()
    assert code == 65, text
    assert "in a shard is not part of a checkpoint" in text
    assert "Traceback" not in text
