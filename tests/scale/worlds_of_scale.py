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


def saves_and_loads(
    rank: int, world_size: int, init_method: str, config: Any, run_dir: Path
) -> tuple[list[list[str]], int, set[str]]:
    """Object collectives over the world of two saves and a load after them.

    And the bytes of shards that this reads, and the files that it opens.
    """
    import pytest
    import torch
    import torch.distributed as dist
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    from benchmarks.file_operations import counting
    from harness.checkpoint.loading import mcore as checkpoint_files
    from harness.run.paths import RunDir
    from harness.train.saving.saving import save
    from harness.train.start.opening import open_run
    from harness.train.steps.step import take_step
    from harness.train.world import World

    called: list[str] = []
    read: list[int] = []

    def counted(name: str) -> Any:
        original = getattr(dist, name)

        def call(*arguments: Any, **options: Any) -> Any:
            group = options.get("group")
            if group is None or group.size() == world_size:
                called.append(name)
            return original(*arguments, **options)

        return call

    original_slice = FileSystemReader._slice_file

    def slice_file(reader: Any, file: Any, place: Any) -> Any:
        read.append(place.length)
        return original_slice(reader, file, place)

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    gathered = []
    gathering = ("all_gather_object", "gather_object", "scatter_object_list")
    with open_run(config, RunDir(run_dir), "never", world) as (run, state), pytest.MonkeyPatch.context() as patch:
        for name in gathering:
            patch.setattr(dist, name, counted(name))
        patch.setattr(FileSystemReader, "_slice_file", slice_file)
        for _ in range(2):
            result = take_step(run, state)
            state = state.after_step(cursor=result.next_cursor, learning_rate=result.learning_rate, loss=result.loss)
            called.clear()
            state = save(run, state)
            gathered.append(list(called))
        run.settle()
        called.clear()
        with counting(run_dir) as counts:
            checkpoint_files.load(RunDir(run_dir).checkpoint(2), run.pipeline.chunks, run.optimizer.megatron)
            opened = {Path(what).name for _, what in counts.take() if what.startswith("open checkpoints/")}
        gathered.append(called)
    return gathered, sum(read), opened


def wait_for_rank_0(rank: int, world_size: int, init_method: str, for_errands: bool) -> str:
    """What a rank sees while rank 0 takes longer than a collective waits: an errand's end, or an error."""
    import time
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    from harness.parallel.errands import Errands
    from harness.parallel.ranks import Place

    dist.init_process_group(
        "gloo", init_method=init_method, rank=rank, world_size=world_size, timeout=timedelta(seconds=2)
    )
    try:
        if for_errands:
            errands = Errands(Place(rank=rank, size=world_size))
            if rank == 0:
                with errands.leading(lambda number: number + 1) as hand_out:
                    time.sleep(4)
                    given = [hand_out({0: 1, 1: 2}), hand_out({1: 5})]
            else:
                given = []
                errands.attend(lambda number: given.append(number) or number * 10)
        elif rank == 0:
            time.sleep(4)
        dist.all_reduce(torch.zeros(1))
    except RuntimeError as error:
        return f"failed: {type(error).__name__}"
    finally:
        dist.destroy_process_group()
    return str(given)


def hash_together(rank: int, world_size: int, init_method: str, folder: Path) -> tuple[list[str], list[str] | str]:
    """Files that a rank hashes of a folder, and all that rank 0 then knows, or the error of the disk."""
    from unittest.mock import patch

    import torch

    from harness.parallel import mcore as parallel
    from harness.run.checkpoints import contents
    from harness.train.components.findings import found_by_rank_0

    read: list[str] = []
    original = contents._file_record

    def look(path: Path, *options: Any) -> Any:
        read.append(path.name)
        return original(path, *options)

    ranks = parallel.join(world_size, rank=rank, device=torch.device("cpu"), init_method=init_method)
    try:
        with patch.object(contents, "_file_record", look):
            names = [path.name for path in folder.iterdir()]
            found = found_by_rank_0(ranks, lambda hash_files: sorted(hash_files(folder, [*names], False)))
        return sorted(read), found or []
    except OSError as error:
        return sorted(read), f"{error.strerror}: {Path(str(error.filename)).name}"
    finally:
        parallel.end()
