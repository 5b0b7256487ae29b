"""Measures the cost of the harness in a step, against a bare megatron-core loop of the same model, data and optimizer.

    python -m benchmarks.step [--rounds 60] [--threads 1] [--experts]

One process runs `harness.train.main` as it is: data, channel loss, one reduction, agreement on orders, decision,
metrics.jsonl, TensorBoard, console. After every block of steps it makes the same steps once more in a bare loop, with a
model and optimizer of its own and the batches ready in memory: Megatron's schedule, its vocabulary-parallel
cross-entropy, its `finalize_model_grads` and its `optimizer.step()`, no metrics and no data path. Blocks alternate, so
that a busy machine affects both. The gradient norms of both must agree, which shows that the work is the same.

Two clocks: the wall's, and the processor time of the thread that trains, which other processes cannot lengthen (but
which does not see waiting either).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import platform
import statistics
import sys
import tempfile
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.corpus import write_channel
from harness.config.schema import Config
from harness.data.batch import Batch
from harness.run.paths import RunDir

BLOCK = 2
VOCAB_SIZE = 4096
CHANNELS = ("zh", "en", "code")


EXPERTS = {
    "num_moe_experts": 16,
    "moe_ffn_hidden_size": 176,
    "moe_router_topk": 4,
    # The bare loop moves no bias.
    "moe_router_score_function": "softmax",
    "moe_router_enable_expert_bias": False,
}
"""A token meets as many weights as without experts."""


def benchmark_config(
    folder: Path, train_steps: int, parallel: dict[str, int] | None = None, experts: dict[str, Any] | None = None
) -> Config:
    """Return a Llama of 4 layers of width 256, 1,024 tokens in 4 micro-batches, three channels."""
    for seed, name in enumerate(CHANNELS):
        if not (folder / name).exists():
            write_channel(folder / name, vocab_size=VOCAB_SIZE, num_tokens=100_000, seed=seed)
    return Config.model_validate(
        {
            "run": {"name": "benchmark"},
            "model": {
                "num_layers": 4,
                "hidden_size": 256,
                "num_attention_heads": 4,
                "num_query_groups": 2,
                "ffn_hidden_size": 704,
                "vocab_size": VOCAB_SIZE,
                **(experts or {}),
            },
            "parallel": {"micro_batch_size": 2, **(parallel or {})},
            "data": {"channels": {name: {"path": folder / name} for name in CHANNELS}},
            "phases": [
                {
                    "name": "main",
                    "train_steps": train_steps,
                    "seq_length": 128,
                    "global_batch_size": 8,
                    "blend": {"zh": 4, "en": 4, "code": 2},
                    "schedule": {"style": "constant", "warmup_steps": min(50, train_steps)},
                }
            ],
            "optimizer": {"learning_rate": 1e-5},
            "precision": {"dtype": "fp32"},
        }
    )


class BareLoop:
    """Megatron's training step and nothing else, on its own model and optimizer."""

    def __init__(self, run: Any) -> None:  # noqa: ANN401 (harness.train.run.Run)
        from megatron.core.distributed import finalize_model_grads
        from megatron.core.models.common.language_module.language_module import LanguageModule
        from megatron.core.pipeline_parallel import get_forward_backward_func

        from harness.model.mcore import build_model
        from harness.optim.mcore import Optimizer

        self._chunks: list[Any] = list(build_model(run.config, run.plan, run.ranks, run.device))
        self._optimizer = Optimizer(run.config, self._chunks).megatron
        self._schedule = get_forward_backward_func()
        self._phase, self._micro_batch_size = run.phase, run.config.parallel.micro_batch_size
        self._chunks[0].config.finalize_model_grads_func = finalize_model_grads
        for chunk in self._chunks:
            chunk.module.compute_language_model_loss = types.MethodType(
                LanguageModule.compute_language_model_loss, chunk.module
            )

    def step(self, micro_batches: tuple[Batch, ...], learning_rate: float) -> float:
        """Do one training step and return the gradient norm."""
        for chunk in self._chunks:
            chunk.zero_grad_buffer()
        self._optimizer.zero_grad()
        self._schedule(
            forward_step_func=_forward_step,
            data_iterator=iter(micro_batches or (None,) * self._phase.num_microbatches),
            model=self._chunks,
            num_microbatches=self._phase.num_microbatches,
            seq_length=self._phase.seq_length,
            micro_batch_size=self._micro_batch_size,
            forward_only=False,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        _, grad_norm, _ = self._optimizer.step()
        return float(grad_norm)


def _forward_step(batches: Iterator[Batch | None], model: Any) -> tuple[torch.Tensor, Any]:  # noqa: ANN401
    batch = next(batches)
    if batch is None:
        return model(None, None, None), None
    return model(batch.tokens_BS, None, None, labels=batch.labels_BS), lambda loss_BS: _loss(loss_BS, batch)


def _loss(loss_BS: torch.Tensor, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    loss_sum = (loss_BS * batch.loss_mask_BS).sum()
    return loss_sum, batch.loss_mask_BS.sum().to(torch.int), {"lm loss": loss_sum.detach()}


class Calls(TorchDispatchMode):
    """Counts torch's operations, collectives among them, while it is active in a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 (torch's types)
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        self.operations[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))

    @property
    def collectives(self) -> dict[str, int]:
        """Collectives and sends by name."""
        return {name: count for name, count in sorted(self.operations.items()) if name.startswith("c10d")}


class Clock(NamedTuple):
    """A time, or how long a step took."""

    wall_s: float
    thread_s: float
    """Processor time of this thread."""

    @staticmethod
    def now() -> Clock:
        """Return both clocks."""
        return Clock(time.perf_counter(), time.thread_time())

    def until_now(self) -> Clock:
        """Return the time since then, per step of a block."""
        now = Clock.now()
        return Clock((now.wall_s - self.wall_s) / BLOCK, (now.thread_s - self.thread_s) / BLOCK)


class Turns:
    """Stands in for the trainer's `take_step`, and lets the bare loop repeat every block of steps.

    The harness's time of a block runs from its first `take_step` to the one after its last: the whole loop.
    """

    def __init__(self, take_step: Callable[..., Any], num_rounds: int) -> None:
        self._take_step = take_step
        self._num_rounds = num_rounds
        self._block: list[Any] = []
        self._bare: BareLoop | None = None
        self._calls: Calls | None = None
        self.harness: list[Clock] = []
        self.bare: list[Clock] = []
        self.largest_difference = 0.0
        self.harness_calls, self.bare_calls = Calls(), Calls()

    @property
    def num_steps(self) -> int:
        """Steps that the trainer has to make: a block to warm up, the rounds, one step to count calls, one to end."""
        return BLOCK * (self._num_rounds + 1) + 2

    def __call__(self, run: Any, state: Any) -> Any:  # noqa: ANN401
        """Takes the step that the trainer asks for."""
        if self._calls is not None:
            self._end_counting()
        if len(self._block) == BLOCK:
            self._end_block(run)
        if not self._block:
            self._begun = Clock.now()
        if len(self.harness) == self._num_rounds + 1 and self._calls is None and not self.harness_calls.operations:
            self._calls = self.harness_calls
            self._calls.__enter__()
        result = self._take_step(run, state)
        self._block.append(result)
        return result

    def _end_block(self, run: Any) -> None:  # noqa: ANN401
        self.harness.append(self._begun.until_now())
        if self._bare is None:
            self._bare = BareLoop(run)
        begun = Clock.now()
        norms = [self._bare.step(each.data.micro_batches, each.learning_rate) for each in self._block]
        self.bare.append(begun.until_now())
        differences = [abs(norm / each.grad_norm - 1) for norm, each in zip(norms, self._block, strict=True)]
        self.largest_difference = max(self.largest_difference, *differences)
        self._block = []

    def _end_counting(self) -> None:
        assert self._calls is not None and self._bare is not None, "a step is being counted"
        self._calls.__exit__(None, None, None)
        self._calls = None
        with self.bare_calls:
            self._bare.step(self._block[0].data.micro_batches, self._block[0].learning_rate)


def measure(config: Config, run_dir: Path, world: Any, turns: Turns) -> Turns:  # noqa: ANN401
    """Trains as one rank, with the bare loop in between. Every rank must call it."""
    from harness.train import main as trainer

    usual = trainer.take_step
    trainer.take_step = turns  # type: ignore[assignment]
    try:
        exit_code = trainer.main(config, RunDir(run_dir), "never", world)
    finally:
        trainer.take_step = usual
    assert exit_code == 0, f"the run ended with {exit_code}"
    return turns


def turns_of(num_rounds: int) -> Turns:
    """Turns around the trainer's own `take_step`."""
    from harness.train.steps.step import take_step

    return Turns(take_step, num_rounds)


def report(turns: Turns, threads: int) -> str:
    """Return the figures as lines of text; the first round is left out."""
    ours, bare = turns.harness_calls, turns.bare_calls
    return "\n".join(
        (
            f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, "
            f"torch {torch.__version__}, megatron-core {_version('megatron-core')}, {threads} thread(s)",
            f"{len(turns.harness) - 1} rounds of {BLOCK} steps each; largest difference of a gradient norm "
            f"{turns.largest_difference:.0e}",
            f"{'':28}{'harness':>10}{'bare loop':>12}{'ratio of each round':>30}",
            _row("step, wall clock, ms", turns, 0),
            _row("step, processor time, ms", turns, 1),
            f"{'torch operations in a step':28}{ours.operations.total():10,}{bare.operations.total():12,}",
            f"{'collectives in a step':28}{sum(ours.collectives.values()):10,}{sum(bare.collectives.values()):12,}",
        )
    )


def _row(label: str, turns: Turns, clock: int) -> str:
    """Return the medians of both, and the spread of their ratio over the rounds."""
    harness, bare = ([step[clock] for step in side[1:]] for side in (turns.harness, turns.bare))
    ratios = sorted(ours / theirs for ours, theirs in zip(harness, bare, strict=True))
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    spread = f"median {statistics.median(ratios):.3f} ({low:.3f} … {high:.3f})"
    return f"{label:28}{1e3 * statistics.median(harness):10.1f}{1e3 * statistics.median(bare):12.1f}{spread:>30}"


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What the harness adds to a step of megatron-core.")
    parser.add_argument("--rounds", type=int, default=60, help=f"blocks of {BLOCK} steps of each loop")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (the data path has its own)")
    parser.add_argument("--experts", action="store_true", help="layers with 16 experts, of which 4 compute a token")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = turns_of(options.rounds)
        config = benchmark_config(folder, turns.num_steps, experts=EXPERTS if options.experts else None)
        with contextlib.redirect_stdout(io.StringIO()):
            measure(config, folder / "run", _alone(folder), turns)
    sys.stdout.write(report(turns, options.threads) + "\n")
    more = " --experts" if options.experts else ""
    sys.stdout.write(
        f"\nrepeat: python -m benchmarks.step --rounds {options.rounds} --threads {options.threads}{more}\n"
    )


def _alone(folder: Path) -> Any:  # noqa: ANN401
    from harness.train.world import World

    return World(rank=0, size=1, device=torch.device("cpu"), init_method=f"file://{folder}/rendezvous")


if __name__ == "__main__":
    main()
