"""The file of a rank in a checkpoint: what is planned for it, and how it is written, hashed meanwhile."""

from __future__ import annotations

import gc
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from harness.checkpoint.counted import Opener
from harness.checkpoint.device_copy import DeviceCopy
from harness.checkpoint.forked_results import ForkedResults
from harness.checkpoint.storages import with_own_storage
from harness.parallel import cpu
from harness.parallel.megatron_changes import replace

cpu.prepare()

from megatron.core.dist_checkpointing.strategies import filesystem_async  # noqa: E402 (the CPU must be prepared first)
from megatron.core.dist_checkpointing.strategies.torch import MCoreSavePlanner  # noqa: E402

# Megatron's writer opens its file by this name. It asks the file how far it is, and so believes a disk that lies.
_open = Opener()
replace(filesystem_async, "open", _open)


def new_results(measure: Callable[[], list[float]], *, with_sha256: bool) -> ForkedResults:
    """Return the queue of the next writer's result, a list if it does not fork: Megatron's is a process to lose."""
    results = ForkedResults(measure)
    replace(filesystem_async, "_results_queue", results)
    _open.take()  # of a save that failed
    _open.with_sha256 = with_sha256
    return results


class Planner(MCoreSavePlanner):  # type: ignore[misc]  # Megatron has no types
    """Megatron's planner, which copies nothing on a CPU: what is written there is the memory of training."""

    def __init__(self) -> None:
        super().__init__(dedup_replicated_tensors=False, flatten_state_dict=False, flatten_sharded_tensors=False)

    def resolve_data(self, item: Any) -> Any:  # noqa: ANN401 (torch's types)
        """Return the data of an item; Megatron would copy a view on a CPU."""
        found = super().resolve_data(item)
        return with_own_storage(found) if isinstance(found, Tensor) else found


def copied_buckets(buckets: Sequence[Any], copy: DeviceCopy) -> tuple[list[Any], Callable[[], None]]:
    """Begin to copy what Megatron is to write from the device.

    Returns:
        The same with copies in the host's memory, and a function that waits until they are complete.

    Raises:
        OSError: The host has no memory for them.
    """
    on_device = [tensor for *_, (_, tensors) in buckets for _, tensor in tensors if copy.has(tensor)]
    copies, wait = copy.begin(on_device)
    left = iter(copies)
    replaced = [
        (path, name, (data, [(item, next(left) if copy.has(tensor) else tensor) for item, tensor in tensors]))
        for path, name, (data, tensors) in buckets
    ]
    return replaced, wait


class Writer(filesystem_async.FileSystemWriterAsync):  # type: ignore[misc]  # Megatron has no types
    """Megatron's writer of one file for each rank.

    Megatron 0.16 forks a process for each file, and waits for ever for a process that the kernel killed. Later versions
    use threads, but drop the error of the disk.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, thread_count=1)

    def let_go(self) -> None:
        """Forget what is to be written: another process has it."""
        self.write_buckets: Any = [None] * len(self.write_buckets)

    @staticmethod
    def _write_files(
        transforms: list[Any], _use_msc: bool, _rank: int, buckets: Sequence[Any], results: ForkedResults
    ) -> None:
        """Write the files of a rank, each in a thread. The result is what each wrote, or the first error."""
        is_collecting = gc.isenabled()
        gc.disable()  # in a forked process a collection would free what belongs to the GPU of its parent
        try:
            with ThreadPoolExecutor(max_workers=len(buckets)) as pool:
                outcomes = list(pool.map(partial(_write_file, transforms), buckets))
        finally:
            if is_collecting:
                gc.enable()
        errors = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        results.put(errors[0] if errors else dict(enumerate(outcomes)), _open.take())

    write_preloaded_data_multiproc = _write_files  # of 0.16
    write_preloaded_data_multithread = _write_files  # of later versions


def _write_file(transforms: list[Any], bucket: Any) -> Any:  # noqa: ANN401 (Megatron's types)
    """Write a file as Megatron does; return its record of the file, or the error."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    done: queue.Queue[None] = queue.Queue()
    done.put(None)
    filesystem_async.FileSystemWriterAsync.write_preloaded_data(
        transforms, 0, bucket, results_queue=outcome, count_queue=done, use_fsync=True
    )
    return outcome.get()[1]
