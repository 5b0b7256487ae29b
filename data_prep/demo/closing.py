"""The end of the demo: `python -m data_prep.demo.closing RUN_DIR` shows what was learnt and what to try next."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.errors import DataError
from harness.run import metric_names as names
from harness.run.checkpoints.manifest import MANIFEST_NAME
from harness.run.paths import RunDir
from harness.run.records import StepRecord, read_records
from harness.say import complain, say

_BARS = "█▇▆▅▄▃▂▁"
_NUM_BARS = 40


def closing_text(run_dir: RunDir) -> str:
    """Return the text that ends the demo: loss of every channel, checkpoints, and commands to try next.

    Raises:
        DataError: The run recorded nothing.
    """
    records = list(read_records(run_dir.metrics)) if run_dir.metrics.exists() else []
    if not records:
        raise DataError(f"{run_dir.metrics} has no step; train first: harness train model_configs/tiny.yaml")
    channels = sorted({channel for record in records for name in record.values if (channel := _train_channel(name))})
    width = max(map(len, channels))
    lines = [f"Loss of every channel over {records[-1].step} steps (nats per token):", ""]
    lines += [f"  {channel:<{width}}  {_curve(records, names.lm_loss_of(channel))}" for channel in channels]
    held_out = [record for record in records if names.valid_lm_loss_of(channels[0]) in record.values]
    if held_out:
        found = (f"{channel} {held_out[-1].values[names.valid_lm_loss_of(channel)]:.3f}" for channel in channels)
        lines += ["", f"On text it never saw: {', '.join(found)}"]
    checkpoints = sorted(path.name for path in run_dir.checkpoints.glob("step_*") if (path / MANIFEST_NAME).exists())
    lines += ["", f"Saved in {run_dir.checkpoints}: {', '.join(checkpoints) or 'nothing'}", "", *_next(run_dir)]
    return "\n".join(lines)


def _next(run_dir: RunDir) -> list[str]:
    root = run_dir.root
    return [
        "What to try next (`. .venv/bin/activate` first):",
        "  another layout continues from the same step, on the same samples (a longer phase moves the learning rate,",
        "  which is confirmed here):",
        "    harness train model_configs/tiny.yaml --set phases.0.train_steps=320 \\",
        "      --set phases.0.schedule.changed_after_step=300 \\",
        "      --set parallel.tensor_model_parallel_size=1 --set parallel.pipeline_model_parallel_size=1",
        f"  save whenever you like, from another terminal:   touch {root}/signals/save",
        f"  look at the curves:                               tensorboard --logdir {root}/tensorboard",
        "  plan a real run:                                  harness plan model_configs/llama3_8b.yaml --gpus 64",
    ]


def _train_channel(name: str) -> str | None:
    return names.channel_of(name) if name.startswith(f"{names.LM_LOSS}/") else None


def _curve(records: list[StepRecord], name: str) -> str:
    """Return `8.33 ████▇▆▅▄▃▂▁ 4.51`: mean loss of equal sections of the run, between the first and the last value."""
    losses = [record.values[name] for record in records if name in record.values]
    num_bars = min(_NUM_BARS, len(losses))
    borders = [len(losses) * index // num_bars for index in range(num_bars + 1)]
    means = [sum(losses[a:b]) / (b - a) for a, b in zip(borders, borders[1:], strict=False)]
    low, high = min(means), max(means)
    scale = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    bars = "".join(_BARS[round((high - mean) * scale)] for mean in means)
    return f"{losses[0]:6.3f} {bars} {losses[-1]:6.3f}"


if __name__ == "__main__":
    try:
        say(closing_text(RunDir(Path(sys.argv[1]))))
    except DataError as error:
        complain(error)
        sys.exit(error.exit_code)
