"""Speed of whole training steps on one GPU: tokens per second, share of the GPU's peak, and where the time goes.

    python -m benchmarks.gpu [--model llama3.2-1b] [--warm-up 5] [--steps 12] [--seconds 110] [--json FILE]

Without `--model` every model is measured, each in a process of its own. What is timed is `harness.train.main` as it is:
data, forward and backward of all micro-batches, gradient accumulation, clipping, AdamW on fp32 master weights, channel
loss, metrics. A step lasts from one `take_step` to the next, by CUDA events. The model is trained from its initial
weights on a text that can be learnt: the loss must begin where an untrained model's does, and fall. After the timed
steps one more is profiled. The GPU's power and clocks are read while the timed steps compute.

The defaults are those of a visit to a GPU (`make gpu`), which must end within twelve minutes on one H100.
With `--seconds` fewer steps are timed if the time is up, four at least.

On a pretended GPU (`tests/fakegpu`) everything runs and nothing is measured. Its name says so wherever it stands.

Model FLOPs count every weight product once forward and twice backward, attention under its causal mask, the true
vocabulary, no embedding lookup and nothing recomputed (see `harness.plan.flops`); the peak is the data sheet's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_load import load_text
from benchmarks.gpu_models import DEFAULTS, LEARNING_RATE, MODELS, Measured, config_of
from benchmarks.kernels import Shares, shares, table
from benchmarks.measured_machine import matmul_tflops, versions
from benchmarks.stopwatch import EnoughError, Stopwatch
from harness.config.parallel import ParallelConfig
from harness.config.schema import Config
from harness.parallel import gpu_environment
from harness.plan.flops import flops_per_token, flops_per_token_full_attention, hardware_flops_per_token, peak_flops
from harness.plan.layouts import make_layout
from harness.plan.memory import GIB, heaviest_rank
from harness.run.paths import RunDir

PRETENDED = "pretended"
"""The name of a GPU that computes nothing begins so (`tests/fakegpu`); its clock measures nothing."""
SMALLEST_FALL_NATS = 0.5
INITIAL_LOSS_NATS = (-0.3, 1.5)
"""The first loss of an untrained model, less the logarithm of the number of tokens (its logits are not quite equal)."""
_FASTEST_ATTENTION = "aten::_scaled_dot_product_cudnn_attention"


@dataclass(frozen=True, kw_only=True)
class Length:
    """Steps and time of a measurement."""

    warm_up: int
    steps: int
    seconds: float = math.inf
    """Time after which fewer steps are timed."""


def measure(measured: Measured, device: torch.device, length: Length, learning_rate: float) -> dict[str, Any]:
    """Trains and measures; what was found, by name."""
    rate = matmul_tflops(device)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        watch = Stopwatch(take_step=_usual_step(), device=device, **asdict(length))
        config = config_of(measured, folder, watch.train_steps, learning_rate)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(EnoughError):
            _train(config, folder, device, watch)
        return _found(measured, config, watch, rate)


def _usual_step() -> Callable[..., Any]:
    from harness.train.steps.step import take_step

    return take_step


def _train(config: Config, folder: Path, device: torch.device, watch: Stopwatch) -> None:
    from harness.train import main as trainer
    from harness.train.world import World

    world = World(rank=0, size=1, device=device, init_method=f"file://{folder}/rendezvous")
    trainer.take_step = watch  # type: ignore[assignment]
    try:
        trainer.main(config, RunDir(folder / "run"), "never", world)
    finally:
        trainer.take_step = _usual_step()


def _found(measured: Measured, config: Config, watch: Stopwatch, rate: float) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(watch.device) if watch.device.type == "cuda" else "cpu"
    seconds, forward_backward = sorted(watch.step_seconds()), watch.forward_backward_seconds()
    if gpu.startswith(PRETENDED):
        seconds, forward_backward, rate = [math.nan] * len(seconds), [math.nan], math.nan
    median = statistics.median(seconds)
    tokens = measured.global_batch_size * measured.seq_length
    speed = tokens / median
    causal = speed * flops_per_token(config.model, measured.seq_length)
    peak = peak_flops(gpu) or float("nan")
    cuda = watch.device.type == "cuda"
    ends = max(1, watch.steps // 10)
    micro_batches = measured.global_batch_size // measured.micro_batch_size
    predicted = heaviest_rank(config, make_layout(config, 1)).total_bytes / GIB
    return {
        "model": measured.title,
        "gpu": gpu,
        "tokens_per_second": speed,
        "mfu_causal_pct": 100 * causal / peak,
        "mfu_full_attention_pct": 100
        * speed
        * flops_per_token_full_attention(config.model, measured.seq_length)
        / peak,
        "hfu_pct": 100 * speed * hardware_flops_per_token(config, measured.seq_length) / peak,
        "tflops": causal / 1e12,
        "matmul_tflops": rate,
        "of_matmul_rate_pct": causal / 1e10 / rate,
        "step_s": {"median": median, "p10": seconds[ends - 1], "p90": seconds[-ends], "min": seconds[0]},
        "forward_backward_s": statistics.median(forward_backward),
        "host_ms_per_micro_batch": 1e3 * statistics.median(watch.host_seconds()) / micro_batches,
        "tokens_per_step": tokens,
        "micro_batch": f"{measured.micro_batch_size} x {measured.seq_length}",
        "dtype": measured.dtype,
        "loss": {
            "first": watch.losses[0],
            "last": statistics.mean(watch.losses[-3:]),
            "of_chance": math.log(config.model.vocab_size),
        },
        "attention": watch.attention_calls(),
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / GIB if cuda else None,
        "peak_reserved_gib": torch.cuda.max_memory_reserved() / GIB if cuda else None,
        "predicted_gib": predicted,
        "versions": versions(),
        "gpu_under_load": watch.load.found(),
        "steps": {"warm_up": watch.warm_up, "timed": watch.steps},
        "shares": shares(watch.kernels(), 1e6 * watch.profiled_s),
    }


def problems(found: dict[str, Any]) -> list[str]:
    """Return the reasons why a measurement is invalid."""
    wrong = [] if is_pretended(found) else _problems_of_the_loss(found["loss"])
    fast = found["gpu"] == "cpu" or found["dtype"] != "bf16" or set(found["attention"]) == {_FASTEST_ATTENTION}
    if not fast:
        wrong.append(f"attention was not cuDNN's alone, but {found['attention'] or 'not seen by the profiler'}")
    return wrong


def is_pretended(found: dict[str, Any]) -> bool:
    """Return whether the GPU is that of `tests/fakegpu`, which computes nothing."""
    return bool(found["gpu"].startswith(PRETENDED))


def _problems_of_the_loss(loss: dict[str, float]) -> list[str]:
    wrong = []
    low, high = (loss["of_chance"] + each for each in INITIAL_LOSS_NATS)
    if not low <= loss["first"] <= high:
        wrong.append(f"the first loss is {loss['first']:.2f}; an untrained model has {low:.2f} to {high:.2f}")
    fall = loss["first"] - loss["last"]
    if not fall >= SMALLEST_FALL_NATS:
        wrong.append(f"the loss fell by {fall:.2f} nats only, not by {SMALLEST_FALL_NATS}: nothing was learnt")
    return wrong


def text(found: dict[str, Any]) -> str:
    """Return the measurement as text, tokens per second first."""
    step, split = found["step_s"], found["shares"]
    assert isinstance(split, Shares), "the shares are not yet JSON"
    return "\n".join(
        (
            f"## {found['model']}, {found['dtype']}, one {found['gpu']}",
            "",
            *(
                ["**This GPU is pretended: nothing was computed, and no figure below is a speed.**", ""]
                * is_pretended(found)
            ),
            f"**{found['tokens_per_second']:,.0f} tokens/s**, causal MFU **{found['mfu_causal_pct']:.1f} %** "
            f"({found['tflops']:.0f} TFLOP/s), with the full attention square {found['mfu_full_attention_pct']:.1f} %, "
            f"HFU {found['hfu_pct']:.1f} %,",
            f"{found['of_matmul_rate_pct']:.1f} % of this GPU's rate for 8192³ bf16 products, "
            f"{found['matmul_tflops']:.0f} TFLOP/s, measured in the same process",
            "",
            f"step {step['median']:.3f} s (p10 {step['p10']:.3f}, p90 {step['p90']:.3f}, min {step['min']:.3f}), of it "
            f"forward and backward {found['forward_backward_s']:.3f} s; {found['tokens_per_step']:,} tokens a step in "
            f"micro-batches of {found['micro_batch']}",
            f"host: {found['host_ms_per_micro_batch']:.1f} ms to ask for forward and backward of a micro-batch",
            f"{found['steps']['warm_up']} steps to warm up, {found['steps']['timed']} timed; loss "
            f"{found['loss']['first']:.2f} → {found['loss']['last']:.2f}",
            f"weights and activations {found['dtype']}; master weights, gradients and both moments fp32",
            memory_text(found),
            f"attention: {found['attention']}",
            f"under load: {load_text(found['gpu_under_load'])}",
            found["versions"],
            "",
            table(split),
        )
    )


def memory_text(found: dict[str, Any]) -> str:
    """Return the peak memory beside the estimate of `harness plan`."""
    predicted, allocated, reserved = (found[f"{name}_gib"] for name in ("predicted", "peak_allocated", "peak_reserved"))
    if allocated is None:
        return f"memory: not measured; `harness plan` estimates {predicted:.2f} GiB"
    return (
        f"memory at the peak: {allocated:.2f} GiB allocated, {reserved:.2f} GiB reserved; `harness plan` estimates "
        f"{predicted:.2f} GiB ({100 * (predicted / allocated - 1):+.1f} %)"
    )


def main() -> int:
    """Measure each model in a process of its own, in the environment that the trainer gives its workers."""
    parser = argparse.ArgumentParser(description="Speed of whole training steps on one GPU.")
    parser.add_argument("--model", choices=MODELS, help="default: every model but the toy")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=12, help="timed steps")
    parser.add_argument("--seconds", type=float, default=math.inf, help="time fewer steps once these are over")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="0 must be called worthless")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: only to try the benchmark")
    parser.add_argument("--json", type=Path, help="append the figures to this file, one line per model")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.stdout.write("no GPU here: nothing is measured\n")
        return 0
    if options.measure:
        return _measure_here(options)
    environment = dict(os.environ)
    gpu_environment.settle(ParallelConfig(), environment)
    names = [options.model] if options.model else list(DEFAULTS)
    commands = [[*_command(name, options), "--measure"] for name in names]
    return max(subprocess.run(command, env=environment, check=False).returncode for command in commands)


def _measure_here(options: argparse.Namespace) -> int:
    warnings.simplefilter("ignore")
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    length = Length(warm_up=options.warm_up, steps=options.steps, seconds=options.seconds)
    found = measure(MODELS[options.model], device, length, options.learning_rate)
    wrong = problems(found)
    sys.stdout.write(f"{text(found)}\n\nrepeat: python {' '.join(_command(options.model, options)[1:])}\n\n")
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps(found | {"problems": wrong, "shares": asdict(found["shares"])}) + "\n")
    for problem in wrong:
        sys.stderr.write(f"worthless: {problem}\n")
    return 1 if wrong else 0


def _command(model: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--model", model, "--device", options.device]
    command += ["--warm-up", str(options.warm_up), "--steps", str(options.steps), "--seconds", str(options.seconds)]
    command += ["--learning-rate", str(options.learning_rate)]
    return command + (["--json", str(options.json)] if options.json else [])


if __name__ == "__main__":
    sys.exit(main())
