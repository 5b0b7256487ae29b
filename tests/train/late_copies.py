"""Jobs for the pool: launches on a stand-in for a GPU whose copies run as late as they may."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.config.schema import Config


def train_late(
    rank: int,
    world_size: int,
    init_method: str,
    config: Config,
    run_dir: Path,
    *device: Any,
) -> list[str]:
    """A whole launch; what its device was asked for. `device` are: a lacking part, options of `LateDevice`, a rollback.

    Its writers read slowly: many steps are taken meanwhile, and memory that was used again too early would be seen.

    The parts that may be lacking are "hold" (training waits before an update), "word" (the writer waits for the copy),
    "process" (to write in), and "memory" (of the host, for the first copy).
    """
    import errno
    import mmap
    import os
    import time
    from unittest.mock import Mock, patch

    import worlds
    from late_device import LateDevice

    from harness.checkpoint import device_copy
    from harness.checkpoint.device_copy import DeviceCopy
    from harness.checkpoint.go_ahead import GoAhead
    from harness.checkpoint.saving.files import mcore as files
    from harness.train.start import opening

    lacking, options, rollback = (*device, None, None, None)[:3]
    late = LateDevice(**(options or {}))
    write = files._write_file

    def write_late(*arguments: Any) -> Any:
        time.sleep(0.5 if lacking is None else 0.0)
        return write(*arguments)

    with ExitStack() as patches:
        patches.enter_context(patch.object(opening, "copy_from", lambda _: DeviceCopy(late)))
        patches.enter_context(patch.object(files, "_write_file", write_late))
        if lacking == "hold":
            patches.enter_context(patch.object(DeviceCopy, "hold", lambda _: None))
        if lacking == "word":
            patches.enter_context(patch.object(GoAhead, "is_given", lambda _: True))
        if lacking == "process":
            refusal = OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            patches.enter_context(patch.object(os, "fork", side_effect=refusal))
        if lacking == "memory":
            outcomes = [OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), mmap.mmap(-1, 2**23)]
            its_mmap = Mock(mmap=Mock(side_effect=outcomes), PAGESIZE=mmap.PAGESIZE)
            patches.enter_context(patch.object(device_copy, "mmap", its_mmap))
        if rollback is None:
            code = worlds.train(rank, world_size, init_method, config, run_dir, "never")
        else:
            code = worlds.train_and_return(rank, world_size, init_method, config, run_dir, *rollback)
    assert code == 0
    return late.asked


def begin_twice(rank: int, world_size: int, init_method: str, config: Config, run_dir: Path) -> tuple[str, str]:
    """Begin a save before the one before is finished, and once it is; the errors."""
    from unittest.mock import patch

    import torch
    from late_device import LateDevice

    from harness.checkpoint.device_copy import DeviceCopy
    from harness.run.paths import RunDir
    from harness.train.start import opening
    from harness.train.steps.step import take_step
    from harness.train.world import World

    world = World(rank=rank, size=world_size, device=torch.device("cpu"), init_method=init_method)
    errors = []
    with (
        patch.object(opening, "copy_from", lambda _: DeviceCopy(LateDevice(late_s=0.0))),
        opening.open_run(config, RunDir(run_dir), "never", world) as (run, state),
    ):
        take_step(run, state)
        for name in ("first", "second"):
            (run_dir / name).mkdir()
        first = run.saver.begin(run_dir / "first")
        for is_finished in (False, True):
            if is_finished:
                first.finish()
            try:
                run.saver.begin(run_dir / "second").finish()
                errors.append("")
            except AssertionError as error:
                errors.append(str(error))
    return errors[0], errors[1]
