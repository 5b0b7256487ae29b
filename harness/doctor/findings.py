"""Judges the facts of a machine for training, line by line: ok, missing (with the loss), or wrong (with the remedy)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from harness.doctor.facts import SHARED_FILE_SYSTEMS, Facts

_GIB = 1 << 30
_LOWEST_FREE_DISK_BYTES = 10 * _GIB
_LONGEST_LOOKUP_S = 0.02
_INSTALL_TRAIN = "pip install 'harness[train]'"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report. `missing` is optional, `wrong` is not."""

    name: str
    state: Literal["ok", "missing", "wrong"]
    found: str
    advice: str = ""


def findings(facts: Facts) -> list[Finding]:
    """Return all findings, in the order in which a person would check."""
    return [
        _python(facts),
        _torch(facts),
        _megatron(facts),
        *_cuda(facts),
        _gpus(facts),
        _transformer_engine(facts),
        _apex(facts),
        *_machine(facts),
        _environment(facts),
        _names(facts),
    ]


def _python(facts: Facts) -> Finding:
    found = f"{'.'.join(map(str, facts.python))} ({facts.executable})"
    if facts.python < (3, 11):
        return Finding(name="Python", state="wrong", found=found, advice="use Python 3.11 or newer")
    return Finding(name="Python", state="ok", found=found)


def _package(
    name: str, version: str | None, error: str | None, *, without: str, advice: str = "install it again"
) -> Finding:
    """Judge a package by the reason why it cannot be imported, if there is one. `without` says what is lost."""
    if version is None:
        return Finding(name=name, state="missing", found="not installed", advice=without)
    if error:
        return Finding(name=name, state="wrong", found=f"{version}: {error}", advice=advice)
    return Finding(name=name, state="ok", found=version)


def _torch(facts: Facts) -> Finding:
    without = f"no training here (plan, signal and schema work without it): {_INSTALL_TRAIN}"
    error = facts.errors.get("torch") or facts.errors.get("probe")
    return _package("torch", facts.versions.get("torch"), error, without=without)


def _megatron(facts: Facts) -> Finding:
    name, wanted = "megatron-core", "0.16.1" if facts.python < (3, 12) else "0.19"
    version, error = facts.versions.get(name), facts.errors.get("megatron.core")
    if version and not error and version != wanted and not version.startswith(f"{wanted}."):
        advice = f"tested with {wanted} on this Python: {_INSTALL_TRAIN}"
        return Finding(name=name, state="wrong", found=version, advice=advice)
    return _package(name, version, error, without=f"no training here: {_INSTALL_TRAIN}")


def _cuda(facts: Facts) -> Iterator[Finding]:
    advice = "this torch was built without it: training runs on the CPU only"
    cudnn = str(facts.cudnn) if facts.cudnn else None
    for name, version in (("CUDA", facts.cuda), ("cuDNN", cudnn), ("NCCL", facts.nccl)):
        if version:
            yield Finding(name=name, state="ok", found=version)
        else:
            yield Finding(name=name, state="missing", found="none", advice=advice if "torch" in facts.versions else "")


def _gpus(facts: Facts) -> Finding:
    if facts.gpus:
        kinds = Counter(f"{gpu.name}, {gpu.memory_bytes // _GIB} GiB" for gpu in facts.gpus)
        return Finding(name="GPUs", state="ok", found="; ".join(f"{count} x {kind}" for kind, count in kinds.items()))
    if facts.cuda:
        advice = "torch has CUDA but sees no GPU: does nvidia-smi list one, and is this a GPU node?"
        return Finding(name="GPUs", state="missing", found="none", advice=advice)
    return Finding(name="GPUs", state="missing", found="none", advice="CPU processes are for trying out and for tests")


def _transformer_engine(facts: Facts) -> Finding:
    return _package(
        "Transformer Engine",
        facts.versions.get("transformer-engine"),
        facts.errors.get("transformer_engine.pytorch"),
        without="no fp8, and no ring between ranks that share samples; attention and kernels are torch's and ours",
        advice="build it against the installed torch, or uninstall it",
    )


def _apex(facts: Facts) -> Finding:
    version = facts.versions.get("apex")
    if version and not facts.apex_is_nvidias:
        advice = (
            "pip uninstall apex. PyPI's `apex` is an unrelated toolkit for the Pyramid web framework; "
            "NVIDIA's Apex is built from github.com/NVIDIA/apex, and is optional"
        )
        found = f"{version}, not NVIDIA's Apex (no CUDA kernels)"
        return Finding(name="apex", state="wrong", found=found, advice=advice)
    return _package("apex", version, None, without="fused kernels come from torch instead; nothing else is lost")


def _environment(facts: Facts) -> Finding:
    kind = facts.environment_file_system
    found = f"{facts.environment} ({kind})" if kind else str(facts.environment)
    if kind in SHARED_FILE_SYSTEMS:
        advice = (
            "each rank reads it from there, 5,000 files: hundreds of nodes wait minutes for it at every start. Put it "
            "into an image (launch.container_image) or onto the disk of each node"
        )
        return Finding(name="packages", state="missing", found=found, advice=advice)
    return Finding(name="packages", state="ok", found=found)


def _names(facts: Facts) -> Finding:
    found = f"the name of an address takes {facts.name_lookup_s:.3f} s"
    if facts.name_lookup_s > _LONGEST_LOOKUP_S:
        advice = (
            "at a start rank 0 looks up the name behind the connection of every rank, one after the other: a thousand "
            f"ranks wait {1000 * facts.name_lookup_s:,.0f} s. Put the nodes into /etc/hosts, or mend the name server"
        )
        return Finding(name="names", state="missing", found=found, advice=advice)
    return Finding(name="names", state="ok", found=found)


def _machine(facts: Facts) -> Iterator[Finding]:
    yield Finding(name="CPU cores", state="ok", found=str(facts.num_cpu_cores))
    yield Finding(name="memory", state="ok", found=f"{facts.memory_bytes / _GIB:.1f} GiB")
    free = f"{facts.disk_free_bytes / _GIB:.1f} GiB free in {facts.folder}"
    found = f"{free} ({facts.file_system})" if facts.file_system else free
    if facts.disk_free_bytes < _LOWEST_FREE_DISK_BYTES:
        advice = "too little for checkpoints: free some, or give --run-dir elsewhere"
        yield Finding(name="disk", state="wrong", found=found, advice=advice)
    else:
        yield Finding(name="disk", state="ok", found=found)
