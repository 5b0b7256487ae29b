"""Limits of known GPUs: peak of dense bf16 matrix products, and memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU model. `words` are the parts of a device name that tell it from others."""

    label: str
    words: tuple[str, ...]
    peak_flops: float
    """Dense bf16 with fp32 accumulation, FLOP/s, from the maker's data sheet (without sparsity)."""
    memory_gib: int
    """Total memory that torch reports, rounded down, GiB."""


# The first entry whose words all occur in a name is taken: special models stand before general ones.
GPUS = (
    Gpu(label="b200", words=("b200",), peak_flops=2250 * _TERA, memory_gib=178),
    Gpu(label="h200-nvl", words=("h200", "nvl"), peak_flops=835 * _TERA, memory_gib=139),
    Gpu(label="h200", words=("h200",), peak_flops=989 * _TERA, memory_gib=139),
    Gpu(label="h100-pcie", words=("h100", "pcie"), peak_flops=756 * _TERA, memory_gib=79),
    Gpu(label="h100-nvl", words=("h100", "nvl"), peak_flops=835 * _TERA, memory_gib=93),
    Gpu(label="h100", words=("h100",), peak_flops=989 * _TERA, memory_gib=79),
    Gpu(label="h800", words=("h800",), peak_flops=989 * _TERA, memory_gib=79),
    Gpu(label="h20", words=("h20",), peak_flops=148 * _TERA, memory_gib=95),
    Gpu(label="a100-40gb", words=("a100", "40gb"), peak_flops=312 * _TERA, memory_gib=39),
    Gpu(label="a100", words=("a100",), peak_flops=312 * _TERA, memory_gib=79),
    Gpu(label="a800", words=("a800",), peak_flops=312 * _TERA, memory_gib=79),
    Gpu(label="l40s", words=("l40s",), peak_flops=362 * _TERA, memory_gib=44),
    Gpu(label="a40", words=("a40",), peak_flops=149.7 * _TERA, memory_gib=44),
    Gpu(label="rtx-4090", words=("4090",), peak_flops=165.2 * _TERA, memory_gib=23),
    Gpu(label="rtx-3090", words=("3090",), peak_flops=71 * _TERA, memory_gib=23),
)


def find_gpu(name: str) -> Gpu | None:
    """Find a GPU by the device name that torch reports (`NVIDIA H100 80GB HBM3`) or by its label (`h100`).

    A slice of a GPU (MIG) has neither the peak nor the memory of the whole and is not found.
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    if "mig" in words:
        return None
    return next((gpu for gpu in GPUS if words.issuperset(gpu.words)), None)
