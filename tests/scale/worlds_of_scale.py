"""Jobs for the pool that count what a rank does."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def looked_at(rank: int, world_size: int, init_method: str, config: Any, run_dir: Path) -> int:
    """Parts whose files a rank has looked at when its run is open, and a step is taken."""
    from unittest.mock import patch

    import worlds

    found: set[str] = set()
    original = Path.stat

    def stat(self: Path, **options: Any) -> Any:
        if self.suffix in (".bin", ".idx"):
            found.add(self.stem)
        return original(self, **options)

    with patch.object(Path, "stat", stat):
        worlds.steps(rank, world_size, init_method, config, run_dir, 1)
    return len(found)


def read_again(rank: int, world_size: int, init_method: str, config: Any, run_dir: Path) -> list[str]:
    """Files that a rank reads whole in a launch that saves."""
    from unittest.mock import patch

    import worlds

    from harness.run.checkpoints import contents

    read: list[str] = []
    original = contents._file_record

    def look(path: Path, *options: Any) -> Any:
        read.append(path.name)
        return original(path, *options)

    with patch.object(contents, "_file_record", look):
        assert worlds.train(rank, world_size, init_method, config, run_dir, "never") == 0
    return read
