"""Rank 0 of a world whose other ranks are pretended: what it does in files at a start, a step, a save and a load.

    python -m benchmarks.pretended_world --ranks 4096 --folder DIR
    python -m benchmarks.pretended_world --ranks 4096 --folder DIR --resume     # of that run: a start with a load

The training loop is the real one. Collectives are torch's pretended ones, which move nothing: the numbers it trains
mean nothing, and its times are those of rank 0 alone. Prints JSON: seconds, and operations on files by thread.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.corpus import write_channel
from benchmarks.file_operations import Operations, counting
from harness.config.schema import Config

_VOCAB_SIZE = 256
_SAVE_EVERY_STEPS = 3
_BY_THE_CLOCK = ("lookout", "heartbeat")
"""Threads that do something every second or so, however many ranks or steps there are."""
_OF_OURS = ("MainThread", "desk", "housekeeping")
_STEP, _SAVE = 5, 6
"""The step whose loop is reported as a step, and the one whose loop saves, for the second time."""


def pretended(num_ranks: int) -> Any:  # noqa: ANN401 (a world; torch is imported here)
    """Return the world of which this process is rank 0."""
    import torch
    import torch.distributed as dist
    import torch.testing._internal.distributed.fake_pg  # registers the backend

    from harness.train.world import World

    dist.init_process_group(backend="fake", store=dist.HashStore(), rank=0, world_size=num_ranks)
    return World(rank=0, size=num_ranks, device=torch.device("cpu"))


def resumed(config: Config, run_dir: Path, num_ranks: int) -> dict[str, Any]:
    """Start a run as rank 0 that `measured` has left; return seconds and file operations of this start.

    Rank 0 hashes all files, not only its share, and what it loads is not compared: the other ranks have saved nothing.
    """
    from harness.run.paths import RunDir
    from harness.train.components import findings
    from harness.train.start import loading
    from harness.train.start.opening import open_run

    world = pretended(num_ranks)
    findings.shares = lambda names, _num_ranks: {0: sorted(names)}
    loading.require_restored = lambda *_arguments, **_options: None
    with _pretended_objects(), counting(run_dir) as counts:
        began = time.perf_counter()
        with open_run(config, RunDir(run_dir), "must", world) as (run, state):
            run.settle()
            seconds = time.perf_counter() - began
            assert state.step == config.phases[0].train_steps
            return {"load": _told(seconds, counts.take())}


def measured(config: Config, run_dir: Path, num_ranks: int) -> dict[str, Any]:
    """Train a few steps as rank 0; return seconds and file operations of the start, of a step, and of a save."""
    from harness.run.paths import RunDir
    from harness.train import main
    from harness.train.start.opening import open_run

    world = pretended(num_ranks)
    loops: list[tuple[float, Operations]] = []
    with _pretended_objects(), counting(run_dir) as counts:
        began = time.perf_counter()
        with open_run(config, RunDir(run_dir), "never", world) as (run, state):
            run.settle()
            loops.append((time.perf_counter() - began, counts.take()))
            take_step = main.take_step

            def begin_loop(run: Any, state: Any) -> Any:  # noqa: ANN401 (the trainer's)
                nonlocal began
                seconds = time.perf_counter() - began
                run.settle()
                loops.append((seconds, counts.take()))
                began = time.perf_counter()
                return take_step(run, state)

            main.take_step = begin_loop
            began = time.perf_counter()
            try:
                code = main.train(run, state)
            finally:
                main.take_step = take_step
    assert code == 0, f"the run left with {code}"
    # The first entry is the start, the second what precedes the first step; loop n follows in place n + 1.
    return {name: _told(*loops[place]) for name, place in (("start", 0), ("step", _STEP + 1), ("save", _SAVE + 1))}


def _told(seconds: float, operations: Operations) -> dict[str, Any]:
    by_thread: dict[str, Counter[str]] = {}
    for (thread, what), count in operations.items():
        if thread not in _BY_THE_CLOCK:
            name = thread if thread in _OF_OURS else "others"
            by_thread.setdefault(name, Counter())[what] += count
    return {"seconds": round(seconds, 4), "operations": by_thread}


@contextmanager
def _pretended_objects() -> Iterator[None]:
    """Let the other ranks have nothing to tell: an empty list where this one has a list, else the same as this one.

    Megatron then misses their shares of a checkpoint, and is not asked whether it has all.
    """
    import torch.distributed as dist

    from harness.parallel import cpu

    cpu.prepare()
    from megatron.core.dist_checkpointing import validation

    def all_gather_object(values: list[Any], value: Any, **_options: Any) -> None:  # noqa: ANN401 (any object)
        empty = type(value)() if isinstance(value, list | dict) else value
        values[:] = [value, *[empty] * (len(values) - 1)]

    def gather_object(value: Any, values: list[Any] | None = None, **_options: Any) -> None:  # noqa: ANN401
        if values is not None:
            all_gather_object(values, value)

    changed = ((dist, "all_gather_object"), (dist, "gather_object"), (validation, "validate_sharding_integrity"))
    originals = [getattr(module, name) for module, name in changed]
    pretended = (all_gather_object, gather_object, lambda *_: None)
    for (module, name), function in zip(changed, pretended, strict=True):
        setattr(module, name, function)
    try:
        yield
    finally:
        for (module, name), function in zip(changed, originals, strict=True):
            setattr(module, name, function)


def config_of(folder: Path, num_ranks: int) -> Config:
    """Return the configuration of a tiny run that saves at every third step, with one replica for each rank."""
    channels = {"en": folder / "en", "code": folder / "code"}
    for seed, path in enumerate(channels.values()):
        if not path.exists():
            write_channel(path, vocab_size=_VOCAB_SIZE, num_tokens=100_000, seed=seed)
    return Config.model_validate(
        {
            "run": {"name": "pretended"},
            "model": {
                "num_layers": 2,
                "hidden_size": 64,
                "num_attention_heads": 4,
                "ffn_hidden_size": 128,
                "vocab_size": _VOCAB_SIZE,
            },
            "parallel": {"micro_batch_size": 1},
            "data": {
                "channels": {name: {"path": path} for name, path in channels.items()},
                "damaged_parts": "alert",  # else training waits for other ranks to read their parts
            },
            "phases": [
                {
                    "name": "main",
                    "train_steps": _SAVE + 1,
                    "seq_length": 16,
                    "global_batch_size": num_ranks,
                    "blend": {"en": 1, "code": 1},
                    "schedule": {"style": "constant", "warmup_steps": 1},
                }
            ],
            "optimizer": {"learning_rate": 1e-5},
            "precision": {"dtype": "fp32"},
            "checkpoint": {"save_every_steps": _SAVE_EVERY_STEPS},
            "logging": {"tensorboard": False},  # the names of its files change
        }
    )


def main() -> int:
    """Print what rank 0 does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="a folder for the corpus and the run")
    parser.add_argument("--resume", action="store_true", help="start the run that is there once more")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    stdout, sys.stdout = sys.stdout, sys.stderr
    measure = resumed if arguments.resume else measured
    found = measure(config_of(arguments.folder, arguments.ranks), arguments.folder / "run", arguments.ranks)
    print(json.dumps(found), file=stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
