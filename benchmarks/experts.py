"""Measures the product of tokens with their experts' weights: torch's grouped product beside a loop over experts.

    python -m benchmarks.experts [--rounds 20] [--threads 1] [--tokens 2048]

Both get the same tokens, weights and numbers of tokens for each expert, forward and backward, in turns, so that a busy
machine affects both. Before that their results are compared. The loop is what Megatron does without Transformer Engine.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from harness.model.experts.products import grouped_product, looped_product, takes_grouped

SHAPES = ((8, 512, 1408), (64, 512, 176), (128, 512, 96))
"""Experts, inputs, outputs: fewer wide ones, and more narrow ones with as many weights together."""
Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Load(NamedTuple):
    """What is multiplied."""

    tokens_TI: torch.Tensor
    weights_EOI: torch.Tensor
    tokens_per_expert: torch.Tensor


def load(num_experts: int, inputs: int, outputs: int, num_tokens: int) -> Load:
    """Return tokens that are spread over experts as an untrained router does it, some experts without any."""
    generator = torch.Generator().manual_seed(num_experts)
    shares = torch.randn(num_experts, generator=generator).exp()
    counts = (num_tokens * shares / shares.sum()).long()
    counts[0] += num_tokens - counts.sum()
    counts[0], counts[-1] = counts[0] + counts[-1], 0
    tokens = torch.randn(num_tokens, inputs, generator=generator).requires_grad_()
    weights = torch.randn(num_experts, outputs, inputs, generator=generator).requires_grad_()
    return Load(tokens, weights, counts)


def timed(product: Product, given: Load) -> tuple[float, list[torch.Tensor]]:
    """Return the seconds of a product with its gradients, and these: of outputs, tokens, weights."""
    given.tokens_TI.grad = given.weights_EOI.grad = None
    begun = time.perf_counter()
    output_TO = product(*given)
    output_TO.backward(torch.ones_like(output_TO))
    taken = time.perf_counter() - begun
    assert given.tokens_TI.grad is not None and given.weights_EOI.grad is not None
    return taken, [output_TO.detach(), given.tokens_TI.grad, given.weights_EOI.grad]


def measure(given: Load, rounds: int) -> tuple[float, float, float]:
    """Return the medians of grouped and looped product in seconds, and of their ratio in each round."""
    assert takes_grouped(given.tokens_TI, given.weights_EOI), "torch has a grouped product for these"
    for one, other in zip(timed(grouped_product, given)[1], timed(looped_product, given)[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
    pairs = [(timed(grouped_product, given)[0], timed(looped_product, given)[0]) for _ in range(rounds)]
    grouped, looped = (statistics.median(side) for side in zip(*pairs, strict=True))
    return grouped, looped, statistics.median(one / other for one, other in pairs)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="The grouped product of experts beside a loop over them.")
    parser.add_argument("--rounds", type=int, default=20, help="times that each is measured, in turns")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of all experts together")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = [
        f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{options.threads} thread(s), fp32, {options.tokens:,} tokens, {options.rounds} rounds",
        f"{'experts x inputs x outputs':30}{'grouped, ms':>14}{'looped, ms':>14}{'ratio, median':>16}",
    ]
    for num_experts, inputs, outputs in SHAPES:
        grouped, looped, ratio = measure(load(num_experts, inputs, outputs, options.tokens), options.rounds)
        shape = f"{num_experts} x {inputs} x {outputs}"
        lines.append(f"{shape:30}{1e3 * grouped:14.1f}{1e3 * looped:14.1f}{ratio:16.3f}")
    repeat = f"--rounds {options.rounds} --threads {options.threads} --tokens {options.tokens}"
    sys.stdout.write("\n".join((*lines, "", f"repeat: python -m benchmarks.experts {repeat}", "")))


if __name__ == "__main__":
    main()
