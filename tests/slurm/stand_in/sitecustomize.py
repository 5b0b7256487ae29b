"""Takes the place of the trainer in a worker process, so that tests of the job need neither torch nor minutes.

Python runs this file at its start because the job's environment file puts its folder on PYTHONPATH. What a worker does
is written in `<run>/behaviour.json`, one entry for each launch; the last one counts for all that follow.
"""

import sys


def _act() -> int:
    import json
    import os
    import signal
    import time
    from pathlib import Path

    run = Path(sys.orig_argv[sys.orig_argv.index("--run-dir") + 1])
    number = sum(1 for path in (run / "launches").iterdir() if (path / "launch.json").exists())
    entries = json.loads((run / "behaviour.json").read_text())
    behaviour = entries[min(number, len(entries)) - 1]
    is_first = os.environ["RANK"] == "0"
    if is_first and "save" in behaviour:
        sys.path.append(str(Path(__file__).parents[2]))
        from checkpoint_samples import write_checkpoint

        write_checkpoint(run / "checkpoints" / f"step_{behaviour['save']:07d}", behaviour["save"])
    sys.stdout.write(f"rank {os.environ['RANK']} of {os.environ['WORLD_SIZE']} works\n")
    sys.stdout.flush()
    if "train" in behaviour:
        sys.path.append(str(Path(__file__).parents[2]))
        from pretended_trainer import Trainer

        return Trainer(run, behaviour["train"], int(behaviour.get("exit", 0))).train()
    if "die_on_rank" in behaviour and os.environ["RANK"] == str(behaviour["die_on_rank"]):
        os.kill(os.getpid(), signal.SIGKILL)
    if "die_on_rank" in behaviour:
        time.sleep(120)  # as if in a collective
    if behaviour.get("until_order"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        signal.signal(signal.SIGTERM, lambda *_: os._exit(75))
        signals = run / "signals"
        while not list(signals.glob("*.json")) and not (run / "order.json").exists():
            time.sleep(0.1)
        if is_first:
            for order in signals.glob("*.json"):
                order.rename(run / "order.json")
        time.sleep(0.5)
    return int(behaviour.get("exit", 0))


def _check() -> int:
    """The real check of the nodes but for this: a node may not answer, and rank 0 does not wait two minutes for it."""
    import os
    import time

    from harness.parallel import node_check

    if os.environ.get("SLURMD_NODENAME") == os.environ.get("DEAD_NODE"):
        time.sleep(600)
    node_check.ANSWER_WITHIN_S = 20.0
    return node_check.main(sys.orig_argv[sys.orig_argv.index("--launch") :])


if "harness.train.worker" in sys.orig_argv or "harness.parallel.node_check" in sys.orig_argv:
    import os

    os._exit(_act() if "harness.train.worker" in sys.orig_argv else _check())
