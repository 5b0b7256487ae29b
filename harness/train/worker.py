"""One rank of a run as a process: `python -m harness.train.worker --run-dir DIR --resume auto`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import traceback
from pathlib import Path

from harness.config.load import load_config
from harness.errors import EXIT_INTERNAL, HarnessError
from harness.parallel import gpu_environment
from harness.parallel.environment import log_label
from harness.parallel.open_files import raise_limit
from harness.parallel.silence import silence_libraries
from harness.parent_death import follow_parent
from harness.run.paths import RunDir
from harness.say import complain
from harness.standard_streams import drop_unread_output, label_lines


def work() -> int:
    """Train as the environment and the arguments say, and return the exit code."""
    parser = argparse.ArgumentParser(description="One rank of a run; `harness train` starts it.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--resume", choices=("auto", "must", "never"), default="auto")
    parser.add_argument("--config", type=Path, help="Default: config.yaml in the run directory.")
    arguments = parser.parse_args()
    label_lines(log_label())
    silence_libraries()
    raise_limit()
    _take_children_along()
    run_dir = RunDir(arguments.run_dir)
    try:
        config = load_config(arguments.config or run_dir.config)
        gpu_environment.settle_for(config)
        from harness.train.main import main  # imports torch, which reads the environment

        return main(config, run_dir, arguments.resume)
    except HarnessError as error:
        complain(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 (the last line of defence: any bug becomes exit code 70)
        from harness.parallel.collectives import is_lost_connection

        if is_lost_connection(error):  # the rank that ended first reports the cause
            complain(f"the connection to another rank, which ended, was lost: {error}")
        elif advice := memory_advice(error):
            complain(f"{advice} ({str(error).partition(chr(10))[0] or type(error).__name__})")
        else:
            traceback.print_exc()
        return EXIT_INTERNAL


def memory_advice(error: BaseException) -> str | None:
    """Return advice for an error about used-up memory; None for other errors."""
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # torch's, which is a RuntimeError
        return (
            "the memory of this host is used up, or as much as its limits allow (ulimit -v, the job's --mem): give the "
            "job more, or lower checkpoint.snapshots_kept, parallel.micro_batch_size or phases.N.seq_length"
        )
    if type(error).__name__ == "OutOfMemoryError":  # torch's; its own text says how much was asked for
        return (
            "the memory of this GPU is used up: `harness plan` says what takes it. Lower parallel.micro_batch_size, "
            "recompute activations (parallel.recompute_granularity), or spread the model over more GPUs"
        )
    return None


def _take_children_along() -> None:
    """Let forked writers of a checkpoint die with their worker. They would go on writing and hold the run's lock."""
    os.register_at_fork(after_in_child=lambda: follow_parent(signal.SIGKILL))


if __name__ == "__main__":
    exit_code = work()
    drop_unread_output()
    sys.exit(exit_code)
