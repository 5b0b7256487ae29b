"""Conversions that are killed (SIGKILL) at their n-th disk call or tensor: each runs in a forked child.

The proof, which writes nothing, is left out: it needs Megatron, and these are hundreds of conversions.
"""

from __future__ import annotations

import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from checkpoint_tools import average, checkpoint_writer, from_hf, to_hf
from checkpoint_tools.proof import Distances, Proof
from checkpoint_tools.values import ComparedValues
from harness.progress import Progress, ShowProgress

CALLS = ("open", "fsync", "rename", "replace", "unlink", "mkdir", "rmdir")
Conversion = Callable[[Path, ShowProgress], object]
"""Converts to a folder, and shows its progress."""


def convert_from_hf(model: Path) -> Conversion:
    return lambda out, show: from_hf.convert(model, out, show, num_workers=1)


def convert_to_hf(checkpoint: Path) -> Conversion:
    def convert(out: Path, show: ShowProgress) -> object:
        job = to_hf.ToHf(checkpoint=checkpoint, out=out, without_tokenizer=True, max_shard_bytes=30_000, num_workers=1)
        return to_hf.convert(job, show)

    return convert


def take_mean(checkpoints: list[Path]) -> Conversion:
    return lambda out, show: average.average(checkpoints, out, show, num_workers=1)


def ended(conversion: Conversion, out: Path, kill_at: int | None = None) -> bool:
    """Whether a conversion in a child ended before it was killed at its n-th disk call or tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside any thread
        child = os.fork()
    if not child:
        status = 1
        try:
            run(conversion, out, kill_at)
            status = 0
        except BaseException:  # noqa: BLE001 (the child must not return into the test runner)
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), f"the conversion left with {status}"
    return status == 0


def run(conversion: Conversion, out: Path, kill_at: int | None = None) -> int:
    """Converts; returns the number of disk calls and tensors."""
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        if count == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            step()
            # A killed process does not lose what the kernel has: nothing has to reach the disk here.
            return None if name == "fsync" else real(*args, **kwargs)

        return call

    @contextmanager
    def show(title: str, total_bytes: int) -> Iterator[Progress]:
        yield lambda num_bytes: step()

    proof = Proof(
        num_layers=1,
        of_layers=1,
        num_tokens=1,
        longest_position=0,
        distances=Distances(
            max_difference=0.0,
            mean_difference=0.0,
            largest_logit=1.0,
            kl=0.0,
            argmax_agreement=1.0,
            first_difference=None,
        ),
        values=ComparedValues(num_tensors=1, num_rows=1, formats=("float32",)),
    )
    with ExitStack() as stack:
        for name in CALLS:
            stack.enter_context(mock.patch.object(os, name, counted(getattr(os, name), name)))
        for module in (from_hf, to_hf):
            stack.enter_context(mock.patch.object(module, "prove", lambda *args, **kwargs: proof))
        stack.enter_context(mock.patch.object(to_hf, "require_loadable"))
        stack.enter_context(mock.patch.object(checkpoint_writer, "NAMES_PER_FILE", 6))
        conversion(out, show)
    return count
