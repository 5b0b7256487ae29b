"""Sums up the GPU time of a step by kind of kernel, from the records of torch's profiler."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

KINDS = (
    ("attention", r"sdpa|flash|fmha|attention|attn"),
    ("communication", r"nccl"),
    ("optimizer", r"multi_tensor_apply|adam"),
    # Our own kernels have the names of their functions in harness/model/kernels.
    ("loss", r"^(log_sums|gradients)"),
    ("norms, activations, rotation", r"^(rms_norm_|activation_|rotate|split_and_rotate)"),
    ("matrix products", r"gemm|nvjet|cutlass|xmma|cublas|wgmma|splitk"),
    ("copies", r"memcpy|memset|copy|fill|catarray"),
    ("other elementwise", r""),
)
"""Kinds of kernels, and what is in their names; the first that fits."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One run of a kernel on the GPU."""

    name: str
    start_us: float
    end_us: float


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Use of a period of time, in microseconds."""

    total_us: float
    by_kind: dict[str, float]
    """Sums of kernel times; kernels beside each other count both."""
    idle_us: float
    """No kernel was running."""
    largest: tuple[tuple[str, float], ...]
    """The kernels that took longest in sum."""


def kind_of(name: str) -> str:
    """Return the kind of a kernel."""
    return next(kind for kind, pattern in KINDS if re.search(pattern, name.lower()))


def shares(kernels: Sequence[Kernel], total_us: float) -> Shares:
    """Adds up what the kernels of a stretch of `total_us` took."""
    by_kind: Counter[str] = Counter()
    by_name: Counter[str] = Counter()
    for kernel in kernels:
        by_kind[kind_of(kernel.name)] += kernel.end_us - kernel.start_us  # type: ignore[assignment]
        by_name[kernel.name] += kernel.end_us - kernel.start_us  # type: ignore[assignment]
    return Shares(
        total_us=total_us,
        by_kind={kind: float(by_kind[kind]) for kind, _ in KINDS if by_kind[kind]},
        idle_us=max(0.0, total_us - busy_us(kernels)),
        largest=tuple((name, float(took)) for name, took in by_name.most_common(12)),
    )


def busy_us(kernels: Iterable[Kernel]) -> float:
    """Time in which at least one kernel ran."""
    busy, end = 0.0, float("-inf")
    for kernel in sorted(kernels, key=lambda each: each.start_us):
        busy += max(0.0, kernel.end_us - max(end, kernel.start_us))
        end = max(end, kernel.end_us)
    return busy


def table(found: Shares) -> str:
    """Return the shares as a Markdown table, with the kernels that took longest."""
    rows = [*found.by_kind.items(), ("idle", found.idle_us)]
    lines = ["| part of the step | ms | share |", "|---|---|---|"]
    lines += [f"| {kind} | {took / 1e3:.1f} | {100 * took / found.total_us:.1f} % |" for kind, took in rows]
    lines += [
        f"| whole step, under the profiler | {found.total_us / 1e3:.1f} | |",
        "",
        "kernels that took longest, ms:",
    ]
    return "\n".join(lines + [f"  {took / 1e3:9.1f}  {name[:100]}" for name, took in found.largest])
